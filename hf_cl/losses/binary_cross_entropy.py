"""A sum of sigmoids as the classification loss.

Shapes: B batch, C classes seen so far, o earlier and c new ones among them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm
from hf_cl.losses.columns import Classes, check_classes, competing, needed


class BinaryCrossEntropy(LossTerm):
    """`scale * mean over B x C of BCE(z, t)`: each class is decided by itself, so old and new ones share no normaliser.

    Smith, Tian, Halbe, Hsu, Kira: "A Closer Look at Rehearsal-Free Continual Learning" (arXiv 2203.17269), as in the first author's
    `learners/kd.py` of data-free-continual-learning. With `distill`, the targets of the earlier classes are the sigmoids of the model as it
    was before the session, from session 1 on: distillation inside the one loss (a session without a new class learns all by its labels).
    `balanced` weighs the label's own column like all others together; it is never scaled.

    Args:
        scale: factor of the plain form; 5 in the code.
        classes: "seen", or "new" for the session's columns alone, which leaves nothing to distil.
        balanced: the weighted form.
        distill: targets of earlier classes from the previous model.
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for a scale that is not positive or another value of `classes`.
    """

    name = "binary_cross_entropy"

    def __init__(
        self,
        scale: float = 5.0,
        classes: Classes = "seen",
        balanced: bool = False,
        distill: bool = True,
        weight: float | Callable[[int], float] = 1.0,
    ) -> None:
        self.classes: Classes = classes
        check_classes(classes, "BinaryCrossEntropy")
        if not scale > 0:
            raise ValueError(f"BinaryCrossEntropy: scale must be positive, got {scale}.")
        self.scale, self.balanced, self.weight = scale, balanced, weight
        self.distill = distill and classes == "seen"
        self.needs = needed(classes) | ({"previous_if_any"} if self.distill else set())

    def __call__(self, ctx: Context) -> Tensor:
        logits, labels = competing(self.classes, ctx)  # [B, C], [B]
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)  # [B, C]
        old = ctx.session.own.start if self.distill else 0
        if old:
            taught = ctx.frozen("previous", view=0).logits[:, :old].sigmoid().to(targets)  # [B, o]
            targets = torch.cat([taught, targets[:, old:]], 1)  # [B, C]
        if not self.balanced:
            return self.scale * F.binary_cross_entropy_with_logits(logits, targets)
        new = logits.shape[1] - old
        value = balanced_bce(logits[:, old:], targets[:, old:]) * (new / logits.shape[1])
        if old:
            value = value + F.binary_cross_entropy_with_logits(logits[:, :old], targets[:, :old]) * (old / logits.shape[1])
        return value


def balanced_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """`mean(bce * (t (k - 1) + 1) / k) * 2k / (1 + 1/k)` over k columns: [B, k], [B, k] -> a tensor without dimensions."""
    k = logits.shape[1]
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # [B, k]
    return (each * (targets * (k - 1) + 1) / k).mean() * (2 * k / (1 + 1 / k))
