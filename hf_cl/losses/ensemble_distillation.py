"""Distillation of several trained models into one that costs a single forward.

Shapes: K teachers, n images of the session, B batch, C classes seen so far, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.memory.sample_table import SampleTable


@dataclass(frozen=True)
class Teacher:
    """A trained run. `open(session)` gives its model after a session: pixel values [B, 3, S, S] -> log-probabilities [B, C]."""

    digest: str
    """Of its weights in all sessions: who resumes must have the same teachers."""
    open: Callable[[int], Callable[[Tensor], Tensor]]


class EnsembleDistillation(LossTerm):
    """`T^2 KL(p || softmax(z / T))` with p the mean over K teachers of their probabilities softened by T, over all classes seen so far.

    Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531); of an ensemble for data that are fixed:
    "Pre-training under infinite compute" (arXiv 2509.14786). Each teacher is softened before the mean is taken, and the factor T^2 keeps
    the gradient's size over T. Labels are not read, so images may have none. The teachers know the classes of earlier sessions, and what
    they know of them passes too.

    The teachers look at each training image once, at the beginning of the session, as evaluation sees it, one teacher after another; the
    student sees augmented views of the same images. The mean is kept by sample id, n x C floats, and is in the checkpoints.

    Args:
        teachers: with models for every session; at least one.
        temperature: T.
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for no teacher, and for a temperature that is not positive.
    """

    name = "ensemble_distillation"
    needs = frozenset({"all_classes"})

    def __init__(self, teachers: Sequence[Teacher], temperature: float = 2.0, weight: float | Callable[[int], float] = 1.0) -> None:
        if not teachers:
            raise ValueError("EnsembleDistillation: there must be at least one teacher.")
        if not temperature > 0:
            raise ValueError(f"EnsembleDistillation: temperature must be positive, got {temperature}.")
        self._teachers = tuple(teachers)
        self.teachers, self.temperature, self.weight = [teacher.digest for teacher in teachers], temperature, weight
        self._table: SampleTable | None = None
        self._filled = False

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._table = SampleTable(session.training_images.indices, len(session.class_names), device=trainer.accelerator.device)
        self._filled = False

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        if not self._filled:  # not in begin_session: a run that is resumed has it in its checkpoint
            self._fill(trainer, self._begun())

    @torch.no_grad()
    def _fill(self, trainer: Trainer, table: SampleTable) -> None:
        session, counts = trainer.session, torch.zeros_like(table.values[:, 0])  # [n + 1]
        for teacher in self._teachers:
            judge = teacher.open(session.id)
            for batch in trainer.batches_of(session.training_images):
                with trainer.accelerator.autocast():
                    judged = judge(batch["pixel_values"])  # [B, C]
                rows, _ = table.rows(batch["index"])  # [B]
                table.values[rows] += softened(judged.float(), self.temperature)
                counts[rows] += 1
            del judge  # one at a time
        sums, counts = trainer.accelerator.reduce((table.values, counts), reduction="sum")  # of the shares of all processes
        table.values.copy_(sums / counts.clamp_min(1)[:, None])
        self._filled = True

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._table, self._filled = None, False

    def __call__(self, ctx: Context) -> Tensor:
        targets, _ = self._begun().read(ctx.batch["index"])  # [B, C]
        return distillation(ctx.logits, targets, self.temperature)

    def state_dict(self) -> dict[str, Any]:
        return {"table": self._table.state_dict()} if self._table is not None and self._filled else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "table" in state and self._table is not None:
            self._table.load_state_dict(state["table"])
            self._filled = True

    def _begun(self) -> SampleTable:
        if self._table is None:
            raise RuntimeError("EnsembleDistillation: no session has begun; the table is made in begin_session.")
        return self._table


def softened(log_probabilities: Tensor, temperature: float) -> Tensor:  # [..., C] -> [..., C]
    """Probabilities at a temperature: those of `softmax(z / T)`, whatever constant the logits z differ by from log-probabilities."""
    return (log_probabilities / temperature).softmax(-1)


def distillation(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:  # [B, C], [B, C] -> []
    """`T^2 KL(targets || softmax(logits / T))`, the mean over the batch."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    student = F.log_softmax(wide / temperature, -1)  # [B, C]
    return temperature**2 * F.kl_div(student, targets.to(student.dtype), reduction="batchmean")
