"""Cross-entropy under StableMax, which cannot collapse.

Shapes: B batch, c classes that compete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm
from hf_cl.heads.stablemax import stable_growth
from hf_cl.losses.columns import Classes, check_classes, competing, needed


class StableMax(LossTerm):
    """`-mean_b log(s(z_y) / sum_k s(z_k))` with s of linear growth: a fitted image keeps a gradient, where softmax rounds it to zero.

    Prieto, Barsbey, Mediano, Birdal: "Grokking at the Edge of Numerical Stability" (arXiv 2501.04697; code: LucasPrietoAl/
    grokking-at-the-edge-of-numerical-stability). It is a main loss. Columns that do not compete are cut off before the logarithm: one of
    -inf would make every gradient NaN. What predicts under it shows `stablemax` probabilities: head setting `probability: stablemax`.

    Args:
        dtype: of the loss; "float64" falls back to float32 on devices without it.
        classes: "new" or "seen".
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for another dtype or another value of `classes`.
    """

    name = "stablemax"

    def __init__(
        self,
        dtype: Literal["float64", "float32"] = "float64",
        classes: Classes = "new",
        weight: float | Callable[[int], float] = 1.0,
    ) -> None:
        self.classes: Classes = classes
        check_classes(classes, "StableMax")
        if dtype not in ("float64", "float32"):
            raise ValueError(f"StableMax: dtype must be 'float64' or 'float32', got {dtype!r}.")
        self.dtype, self.weight = dtype, weight
        self.needs = needed(classes)

    def __call__(self, ctx: Context) -> Tensor:
        logits, labels = competing(self.classes, ctx)  # [B, c], [B]
        return stablemax_cross_entropy(logits.to(self._dtype(logits)), labels)

    def _dtype(self, logits: Tensor) -> torch.dtype:
        return (
            torch.float64 if self.dtype == "float64" and logits.device.type != "mps" else torch.promote_types(logits.dtype, torch.float32)
        )


def stablemax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of `-log p_y`, or `-sum_c t_c log p_c` for targets [B, C] of floating point."""
    logs = stable_growth(logits).log()  # [B, C]
    total = logs.logsumexp(-1)  # [B]
    if targets.is_floating_point():
        return (total * targets.sum(-1) - (targets * logs).sum(-1)).mean()
    return (total - logs.gather(1, targets[:, None])[:, 0]).mean()
