"""How much of the training set the softmax no longer gives a gradient for.

Shapes: B batch, c classes of the session, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, Probe, Session, Trainer


class SoftmaxCollapse(Probe):
    """Per session and precision: the share of training images whose cross-entropy is exactly 0, and whose true-class gradient is.

    Prieto, Barsbey, Mediano, Birdal: "Grokking at the Edge of Numerical Stability" (arXiv 2501.04697). Once the gap between the largest
    logit and the others exceeds what a precision can add, the softmax's sum rounds to its largest term. Reported too: the median gap of the
    true class to the runner-up, and for heads with a linear form the alignment |w.g| / (|w| |g|) of the head's rows with their
    cross-entropy gradient, which is 1 where only the scale of the logits still moves.

    It reads the logits that the losses saw; the numbers of a session are means over its readings and processes.

    Args:
        every: optimizer steps between two readings.
        dtypes: precisions of torch by name.

    Raises ValueError for an interval below 1 and for names that are no floating point type of torch.
    """

    name = "softmax_collapse"

    def __init__(self, every: int = 50, dtypes: Sequence[str] = ("float32", "bfloat16")) -> None:
        if every < 1:
            raise ValueError(f"SoftmaxCollapse: every must be at least 1, got {every}.")
        self.every, self.dtypes = every, tuple(dtypes)
        known = {str(d).removeprefix("torch."): d for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
        if unknown := [name for name in self.dtypes if name not in known]:
            raise ValueError(f"SoftmaxCollapse: {unknown[0]!r} is none of {', '.join(known)}.")
        self._types = [known[name] for name in self.dtypes]
        self._steps = 0
        self._sums: Tensor | None = None
        self._device = torch.device("cpu")
        self._sessions: list[dict[str, float | int | None]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._steps, self._sums, self._device = 0, None, trainer.accelerator.device

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        self._steps += 1
        if self._steps % self.every == 0:
            for ctx in trainer.contexts:
                reading = self._read(ctx, trainer)
                self._sums = reading if self._sums is None else self._sums + reading

    def _read(self, ctx: Context, trainer: Trainer) -> Tensor:
        """[2 k + 4] sums: per dtype the images with loss 0 and gradient 0; images, median gap, alignment, and one for the reading."""
        first = _first(ctx)
        logits, labels = ctx.logits[:, first:], ctx.labels - first  # [B, c], [B]
        counts = [part for dtype in self._types for part in collapsed(logits, labels, dtype)]
        others = logits.scatter(1, labels[:, None], -torch.inf)
        gap = (logits.gather(1, labels[:, None])[:, 0] - others.max(1).values).median()
        images = torch.full((), float(len(labels)), device=logits.device)
        values = [*counts, images, gap, self._alignment(ctx, trainer), torch.ones_like(images)]
        return torch.stack([value.double() if value.device.type != "mps" else value.float() for value in values])

    def _alignment(self, ctx: Context, trainer: Trainer) -> Tensor:
        linear = trainer.head.as_linear()
        if linear is None or linear.in_features != ctx.embedding.shape[1]:
            return torch.full((), torch.nan, device=ctx.logits.device)
        first = _first(ctx)
        errors = ctx.logits[:, first:].float().softmax(-1) - F.one_hot(ctx.labels - first, ctx.logits.shape[1] - first)  # [B, c]
        gradient = errors.T @ ctx.embedding.float()  # [c, D]
        rows = linear.weight[first:].float()
        return (rows * gradient).sum().abs() / (rows.norm() * gradient.norm() + 1e-30)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if self._sums is None:
            return
        sums = trainer.accelerator.reduce(self._sums, reduction="sum").tolist()
        *counts, images, gap, alignment, readings = sums
        record: dict[str, float | int | None] = {"session": session.id}
        for i, name in enumerate(self.dtypes):
            record[f"{name}_loss_zero"] = counts[2 * i] / images
            record[f"{name}_gradient_zero"] = counts[2 * i + 1] / images
        record["median_gap"] = gap / readings
        record["alignment"] = None if math.isnan(alignment) else alignment / readings
        self._sessions.append(record)

    def report(self) -> dict[str, Any]:
        last = {key: value for key, value in self._sessions[-1].items() if key != "session"} if self._sessions else {}
        return {**last, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "sums": self._sums, "sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._sessions = state["steps"], list(state["sessions"])
        self._sums = None if state["sums"] is None else state["sums"].to(self._device)


def collapsed(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """How many rows have in `dtype` a cross-entropy of exactly 0, and a true-class gradient of exactly 0: [B, c], [B] -> two counts."""
    lower = logits.to(dtype)
    losses = F.cross_entropy(lower, labels, reduction="none")  # [B]
    gradients = lower.softmax(-1).gather(1, labels[:, None])[:, 0] - 1  # [B]
    return (losses == 0).sum(), (gradients == 0).sum()


def _first(ctx: Context) -> int:
    """The first column that competes: of the session's own classes, or of all where images of others are replayed."""
    return 0 if "replayed" in ctx.batch else ctx.session.own.start
