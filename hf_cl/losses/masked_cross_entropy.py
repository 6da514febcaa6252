"""Cross-entropy among the classes of the current session.

Shapes: B batch, C classes seen so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.columns import needed

logger = logging.getLogger(__name__)

_NO_LABEL = torch.iinfo(torch.int64).min
"""PyTorch ignores the label -100, which the shift below would make of an ordinary label."""


class MaskedCrossEntropy(LossTerm):
    """Cross-entropy over the current session's columns, or over all columns.

    With `classes="new"` the columns of earlier sessions take no part: L2P's convention (Wang et al., CVPR 2022), which DualPrompt and
    OVOR follow. It equals logits of -inf there, in value and gradient: the rows of earlier classes get a gradient of exactly zero.

    Inside an ordered session the columns of classes that have not come take no part. In a session without a new class, "new" is all
    classes. Labels are not checked in the step, since that would make the host wait for the device; the loop refuses "new" before anything
    trains where a session has images of other classes than its own.

    Args:
        classes: "new" (the session's classes compete) or "seen" (all classes so far do).
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for another value of `classes`.
    """

    name = "cross_entropy"

    def __init__(self, classes: Literal["new", "seen"] = "new", weight: float | Callable[[int], float] = 1.0) -> None:
        if classes not in ("new", "seen"):
            raise ValueError(f"MaskedCrossEntropy: classes must be 'new' or 'seen', got {classes!r}.")
        self.classes = classes
        self.weight = weight
        self.needs = needed(classes)

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if self.classes == "new" and len(session.own) == 1:
            logger.warning(
                "Session %d has one new class: cross-entropy among the session's own classes is 0 there and trains nothing.", session.id
            )

    def __call__(self, ctx: Context) -> Tensor:
        first = ctx.session.own.start if self.classes == "new" else 0
        return F.cross_entropy(ctx.logits[:, first : ctx.exposed], ctx.labels - first, ignore_index=_NO_LABEL)
