"""Means over a batch's own images and over those that a memory replays.

Shapes: B batch.
"""

from __future__ import annotations

from torch import Tensor

from hf_cl.contracts import Context


def mean_of_own(values: Tensor, ctx: Context) -> Tensor:
    """Mean of `values` [B] over the session's own images of the whole optimizer step.

    The loop weights what a piece of a step gives by its images of both kinds. So the sum over this kind is divided by all images of the
    piece and by the kind's share in the step: however unevenly the step is cut, the pieces add up to the mean.
    """
    replayed = ctx.batch.get("replayed")
    if replayed is None:
        return values.mean()
    return values.masked_fill(replayed, 0.0).mean() / max(1 - ctx.replayed_share, 1e-12)


def mean_of_replayed(values: Tensor, ctx: Context) -> Tensor:
    """The same over replayed images; 0 where the step has none."""
    replayed = ctx.batch.get("replayed")
    if replayed is None or ctx.replayed_share == 0:
        return 0.0 * values.sum()
    return values.masked_fill(~replayed, 0.0).mean() / ctx.replayed_share
