"""Cross-entropy in both directions.

Shapes: B batch, c classes that compete.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm
from hf_cl.losses.columns import Classes, check_classes, competing, needed


class SymmetricCrossEntropy(LossTerm):
    """`a CE(q, p) + b CE(p, q)` with p the prediction and q the label, which a wrong label pulls less.

    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels" (ICCV 2019); SLCA++ trains with it (Zhang et al., arXiv
    2408.08295).

    The second direction is -sum_k p_k log q_k, where log 0 is log 1e-4: four times the probability given to wrong classes, times log 10. It
    is bounded, so a wrong label pulls no harder the surer the model is.

    Args:
        a: weight of the ordinary direction.
        b: weight of the reverse one.
        classes: "new" (the session's classes compete) or "seen" (all classes so far do).

    Raises ValueError for a negative weight, for two that are 0, and for another value of `classes`.
    """

    name = "symmetric_cross_entropy"

    def __init__(self, a: float = 1.0, b: float = 0.1, classes: Classes = "new") -> None:
        if not (a >= 0 and b >= 0 and a + b > 0):
            raise ValueError(f"SymmetricCrossEntropy: a and b are weights from 0, not both 0; got {a!r} and {b!r}.")
        check_classes(classes, type(self).__name__)
        self.a, self.b = a, b
        self.classes: Classes = classes
        self.needs = needed(classes)

    def __call__(self, ctx: Context) -> Tensor:
        return symmetric_cross_entropy(*competing(self.classes, ctx), self.a, self.b)


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, a: float, b: float) -> Tensor:
    """[] of logits [B, c] and labels [B]."""
    one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)  # [B, c]
    predicted = logits.softmax(1).clamp(1e-7, 1.0)  # [B, c]
    reverse = -(predicted * one_hot.clamp(1e-4, 1.0).log()).sum(1)  # [B]
    return a * F.cross_entropy(logits, labels) + b * torch.mean(reverse)
