"""Distance of the features to those of the previous model.

Shapes: B batch, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from hf_cl.contracts import Context, LossTerm


class FeatureDistillation(LossTerm):
    """Squared distance of the features f to f^, those of the model before the session: its mean over B x D, or summed over D.

    "FeatKD" of Smith et al., "A Closer Look at Rehearsal-Free Continual Learning" (arXiv 2203.17269). The phase must run on images.

    Args:
        weight: a number, or a function of the phase's epoch.
        reduction: "mean" over all entries, or "sum" over D and the mean over B.

    Raises ValueError for another reduction.
    """

    name = "feature_distillation"
    needs = frozenset({"previous"})
    first_session = 1

    def __init__(self, weight: float | Callable[[int], float] = 5.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"FeatureDistillation: reduction must be 'mean' or 'sum', got {reduction!r}.")
        self.weight, self.reduction = weight, reduction

    def __call__(self, ctx: Context) -> Tensor:
        before = ctx.frozen("previous", view=0).features  # [B, D]
        squared = (ctx.features - before.to(ctx.features)).square()  # [B, D]
        return squared.mean() if self.reduction == "mean" else squared.sum(-1).mean()
