"""Targets mixed from the label and the model's own prediction one epoch earlier.

Shapes: n images of the session, B batch, c classes that compete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.columns import Classes, check_classes, competing, first_column, needed
from hf_cl.losses.global_batch import gather_batch
from hf_cl.memory.sample_table import SampleTable

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16}


class SelfDistillation(LossTerm):
    """`-mean_b sum_c t_bc log softmax(z)_bc` with `t = (1 - a_e) onehot(y) + a_e M`, M the image's prediction of the last epoch.

    Kim, Ji, Yoon, Hwang: "Self-Knowledge Distillation with Progressive Refinement of Targets" (ICCV 2021; code: lgcnsai/PS-KD-Pytorch).
    `a_e = alpha (e + 1) / E` over the E epochs of a session; M starts as the labels, so the first epoch is plain cross-entropy. It is a
    main loss: it takes the place of `MaskedCrossEntropy`.

    M is one row of probabilities per image of the session, written after each step from what the loss saw and read from the next epoch on,
    so the order of the images does not matter. An image that the table does not know keeps its label as target. Under several processes
    every one writes the rows of all.

    Args:
        epochs: E, of the phase that lists the loss.
        alpha: the share of the prediction in the last epoch.
        classes: "new" or "seen".
        memory_dtype: "float32", or "float16" for half the table.
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for values out of range, and at the beginning of a session for sample ids that are not unique.
    """

    name = "self_distillation"

    def __init__(
        self,
        epochs: int,
        alpha: float = 0.8,
        classes: Classes = "new",
        memory_dtype: Literal["float32", "float16"] = "float32",
        weight: float | Callable[[int], float] = 1.0,
    ) -> None:
        self.classes: Classes = classes
        check_classes(classes, "SelfDistillation")
        if not 0 <= alpha <= 1:
            raise ValueError(f"SelfDistillation: alpha must be between 0 and 1, got {alpha}.")
        if epochs < 1:
            raise ValueError(f"SelfDistillation: epochs must be at least 1, got {epochs}.")
        if memory_dtype not in DTYPES:
            raise ValueError(f"SelfDistillation: memory_dtype must be 'float32' or 'float16', got {memory_dtype!r}.")
        if epochs == 1:
            logger.warning("SelfDistillation over 1 epoch is plain cross-entropy: no prediction is an epoch old.")
        self.epochs, self.alpha, self.memory_dtype, self.weight = epochs, alpha, memory_dtype, weight
        self.needs = needed(classes) | {"index"}
        self._read: SampleTable | None = None
        self._written: SampleTable | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        first = first_column(self.classes, session)
        images, device = session.training_images, trainer.accelerator.device
        table = SampleTable(images.indices, len(session.class_names) - first, DTYPES[self.memory_dtype], device)
        labels = torch.as_tensor(list(images.labels), device=device) - first  # [n]
        ids = torch.as_tensor(list(images.indices), device=device)  # [n]
        table.write(ids, F.one_hot(labels, table.values.shape[1]))
        self._read = table
        self._written = table.copy()

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        self._tables()[0].values.copy_(self._tables()[1].values)

    def after_step(self, trainer: Trainer) -> None:
        for ctx in trainer.contexts:
            logits, _ = competing(self.classes, ctx)  # [B, c]
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            index, probabilities = ctx.batch["index"], wide.softmax(-1)
            (ids, values), valid = gather_batch(index, index, probabilities)
            self._tables()[1].write(ids, values, valid)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._read = self._written = None

    def share(self, epoch: int) -> float:
        """a_e."""
        return self.alpha * min(epoch + 1, self.epochs) / self.epochs

    def __call__(self, ctx: Context) -> Tensor:
        logits, labels = competing(self.classes, ctx)  # [B, c], [B]
        onehot = F.one_hot(labels, logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))  # [B, c]
        remembered, known = self._tables()[0].read(ctx.batch["index"])  # [B, c], [B]
        share = self.share(ctx.epoch) * known[:, None].to(onehot)  # [B, 1]
        targets = (1 - share) * onehot + share * remembered.to(onehot)  # [B, c]
        return -(targets * F.log_softmax(logits.to(onehot.dtype), -1)).sum(-1).mean()

    def state_dict(self) -> dict[str, Any]:
        return {name: table.state_dict() for name, table in (("read", self._read), ("written", self._written)) if table is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, table in (("read", self._read), ("written", self._written)):
            if name in state and table is not None:
                table.load_state_dict(state[name])

    def _tables(self) -> tuple[SampleTable, SampleTable]:
        if self._read is None or self._written is None:
            raise RuntimeError("SelfDistillation: no session has begun; the table is made in begin_session.")
        return self._read, self._written
