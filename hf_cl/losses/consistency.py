"""Consistency with the model of the base session.

Shapes: B batch, C classes seen so far, C0 classes of the base session.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm


class Consistency(LossTerm):
    """Mean squared difference of the logits to those of the student at the end of session 0, over the base session's classes.

    The consistency term of CoACT (Roy et al., TMLR 2025, arXiv 2405.16625), which sees the same view under the role `base`. The official
    code also compares the columns of new classes with rows that were never trained; here only the first C0 columns count, so the term is 0
    as long as nothing has moved.

    Args:
        weight: a number, or a function of the phase's epoch.
    """

    name = "consistency"
    needs = frozenset({"base"})

    def __init__(self, weight: float | Callable[[int], float] = 1.0) -> None:
        self.weight = weight

    def __call__(self, ctx: Context) -> Tensor:
        target = ctx.frozen("base", view=0).logits  # [B, C0]
        dtype = torch.promote_types(target.dtype, torch.float32)
        return F.mse_loss(ctx.logits[:, : target.shape[1]].to(dtype), target.to(dtype))
