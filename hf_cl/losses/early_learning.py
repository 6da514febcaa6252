"""Agreement with a moving average of the model's own early predictions, against wrong labels.

Shapes: n images of the session, B batch, c classes that compete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.columns import Classes, check_classes, competing, first_column, needed
from hf_cl.losses.global_batch import gather_batch
from hf_cl.losses.self_distillation import DTYPES
from hf_cl.memory.sample_table import SampleTable

logger = logging.getLogger(__name__)

FEW = 20
"""Images per class below which a session has no early phase worth remembering."""


class EarlyLearning(LossTerm):
    """`mean_b log(1 - <T_b, p_b>)`, added to cross-entropy: networks fit clean labels first, and T remembers that phase.

    Liu, Niles-Weed, Razavian, Fernandez-Granda: "Early-Learning Regularization Prevents Memorization of Noisy Labels" (NeurIPS 2020; code:
    shengliu66/ELR). p is the softmax, kept within [clamp, 1 - clamp]; q is p without gradient, summing to one again; T, one row per image,
    is `beta T + (1 - beta) q`, updated before it is used. The gradient of the term cancels that of cross-entropy where label and memory
    disagree, so `weight` and learning rate must leave an early phase: see docs/losses.md. Always
    in float32: 1 - 1e-4 is 1 in half precision.

    Args:
        weight: lambda, or a function of the phase's epoch.
        beta: of the moving average.
        clamp: distance of the probabilities from 0 and 1.
        classes: "new" or "seen".
        bias_correction: divide T by 1 - beta^visits, so that the term is not weak at first; not in the official code.
        memory_dtype: "float32", or "float16" for half the table.

    Raises ValueError for values out of range, and at the beginning of a session for sample ids that are not unique.
    """

    name = "early_learning"

    def __init__(
        self,
        weight: float | Callable[[int], float] = 3.0,
        beta: float = 0.7,
        clamp: float = 1e-4,
        classes: Classes = "new",
        bias_correction: bool = False,
        memory_dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        self.classes: Classes = classes
        check_classes(classes, "EarlyLearning")
        if not 0 <= beta < 1:
            raise ValueError(f"EarlyLearning: beta must be at least 0 and below 1, got {beta}.")
        if not 0 < clamp < 0.5:
            raise ValueError(f"EarlyLearning: clamp must be between 0 and 0.5, got {clamp}.")
        if not callable(weight) and weight < 0:
            raise ValueError(f"EarlyLearning: weight must not be negative, got {weight}.")
        if memory_dtype not in DTYPES:
            raise ValueError(f"EarlyLearning: memory_dtype must be 'float32' or 'float16', got {memory_dtype!r}.")
        self.weight, self.beta, self.clamp = weight, beta, clamp
        self.bias_correction, self.memory_dtype = bias_correction, memory_dtype
        self.needs = needed(classes) | {"index"}
        self.table: SampleTable | None = None
        """[n, c + 1]: the averages, and in the last column beta to the number of visits."""

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        columns = len(session.class_names) - first_column(self.classes, session)
        if len(session.train) < FEW * len(session.own):
            logger.warning("EarlyLearning: session %d has fewer than %d images a class; it has no early phase.", session.id, FEW)
        self.table = SampleTable(session.training_images.indices, columns + 1, DTYPES[self.memory_dtype], trainer.accelerator.device)
        self.table.values[:, -1] = 1.0

    def after_step(self, trainer: Trainer) -> None:
        for ctx in trainer.contexts:
            index = ctx.batch["index"]
            (ids, q), valid = gather_batch(index, index, self._predictions(ctx)[1])
            self._table.write(ids, self._updated(ids, q), valid)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self.table = None

    def __call__(self, ctx: Context) -> Tensor:
        p, q = self._predictions(ctx)  # [B, c] each
        rows = self._updated(ctx.batch["index"], q)  # [B, c + 1]
        average, rest = rows[:, :-1], rows[:, -1:]  # [B, c], [B, 1]
        if self.bias_correction:
            average = average / (1 - rest)
        return (1 - (average * p).sum(-1)).log().mean()

    def memory(self) -> tuple[Tensor, Tensor]:
        """Sample ids [n], ascending, and their averages [n, c]."""
        return self._table.ids(), self._table.values[:-1, :-1].float()

    def _predictions(self, ctx: Context) -> tuple[Tensor, Tensor]:
        logits, _ = competing(self.classes, ctx)  # [B, c]
        wide = torch.promote_types(logits.dtype, torch.float32)
        p = logits.to(wide).softmax(-1).clamp(self.clamp, 1 - self.clamp)  # [B, c]
        q = p.detach()
        return p, q / q.sum(-1, keepdim=True)

    def _updated(self, index: Tensor, q: Tensor) -> Tensor:
        """[B, c + 1] the rows of `index` after this visit; the table stays as it is."""
        rows, _ = self._table.read(index)  # [B, c + 1]
        averages = self.beta * rows[:, :-1].to(q.dtype) + (1 - self.beta) * q  # [B, c]
        return torch.cat([averages, self.beta * rows[:, -1:].to(q.dtype)], 1)  # [B, c + 1]

    @property
    def _table(self) -> SampleTable:
        if self.table is None:
            raise RuntimeError("EarlyLearning: no session has begun; the table is made in begin_session.")
        return self.table

    def state_dict(self) -> dict[str, Any]:
        return {} if self.table is None else {"table": self.table.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "table" in state and self.table is not None:
            self.table.load_state_dict(state["table"])
