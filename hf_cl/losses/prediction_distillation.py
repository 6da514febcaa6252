"""Distillation of the previous model's predictions on the classes it knew.

Shapes: B batch, o earlier classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm


class PredictionDistillation(LossTerm):
    """`-mean_b sum_{c<o} softmax(z^ / T)_c log softmax(z / T)_c` over the o earlier classes, z^ the logits before the session.

    Li, Hoiem: "Learning without Forgetting" (ECCV 2016), as "PredKD" of Smith et al. (arXiv 2203.17269) has it: no factor T^2 unless asked.
    `kind="sigmoid"` is the mean binary cross-entropy with the previous model's sigmoids instead.

    Args:
        weight: a number, or a function of the phase's epoch.
        temperature: T.
        scale_t2: multiply by T^2, which keeps the gradient's size over T.
        kind: "softmax" or "sigmoid".

    Raises ValueError for a temperature that is not positive or another kind.
    """

    name = "prediction_distillation"
    needs = frozenset({"previous", "all_classes"})
    first_session = 1

    def __init__(
        self,
        weight: float | Callable[[int], float] = 1.0,
        temperature: float = 2.0,
        scale_t2: bool = False,
        kind: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"PredictionDistillation: temperature must be positive, got {temperature}.")
        if kind not in ("softmax", "sigmoid"):
            raise ValueError(f"PredictionDistillation: kind must be 'softmax' or 'sigmoid', got {kind!r}.")
        self.weight, self.temperature, self.scale_t2, self.kind = weight, temperature, scale_t2, kind

    def __call__(self, ctx: Context) -> Tensor:
        old = ctx.session.first_new_class
        now = ctx.logits[:, :old] / self.temperature  # [B, o]
        before = ctx.frozen("previous", view=0).logits[:, :old] / self.temperature  # [B, o]
        if self.kind == "sigmoid":
            value = F.binary_cross_entropy_with_logits(now, before.sigmoid().to(now))
        else:
            value = -(before.softmax(-1) * F.log_softmax(now, -1)).sum(-1).mean()
        return value * self.temperature**2 if self.scale_t2 else value
