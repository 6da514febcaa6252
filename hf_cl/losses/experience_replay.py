"""Cross-entropy that weighs new and replayed images apart.

Shapes: B batch, C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm
from hf_cl.losses.columns import Classes, check_classes
from hf_cl.losses.replayed import mean_of_own, mean_of_replayed


class ExperienceReplay(LossTerm):
    """Mean cross-entropy of the session's own images plus `replay_weight` times that of replayed ones.

    With weight 1 it is experience replay, "ER" (Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", arXiv 1902.10486);
    under `own_classes="new"` the session's own images compete among its classes alone and push no row of an earlier class down:
    "ER-ACE" (Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", ICLR 2022). A weight of
    0.5 beside `logit_replay` is DER++'s beta. Replayed images always compete among all classes seen.

    Args:
        replay_weight: of the mean over replayed images.
        own_classes: among which the session's own images compete, "seen" or "new".
        weight: of both together: a number, or a function of the phase's epoch.

    Raises ValueError for another word, and a negative weight.
    """

    name = "experience_replay"
    needs = frozenset({"all_classes", "memory"})

    def __init__(self, replay_weight: float = 1.0, own_classes: Classes = "seen", weight: float | Callable[[int], float] = 1.0) -> None:
        check_classes(own_classes, "ExperienceReplay")
        if not replay_weight >= 0:
            raise ValueError(f"ExperienceReplay: replay_weight must not be negative, got {replay_weight}.")
        self.replay_weight, self.own_classes, self.weight = replay_weight, own_classes, weight

    def __call__(self, ctx: Context) -> Tensor:
        logits, labels = ctx.logits[:, : ctx.exposed], ctx.labels  # [B, C], [B]
        replayed = ctx.batch.get("replayed")
        losses = F.cross_entropy(logits, labels, reduction="none")  # [B]
        own = losses
        first = ctx.session.own.start
        if self.own_classes == "new" and first:
            left_out = torch.arange(logits.shape[1], device=logits.device) < first  # [C]
            masked = logits.masked_fill(left_out, -torch.inf)  # [B, C]
            among = labels if replayed is None else labels.masked_fill(replayed, logits.shape[1] - 1)  # a label that competes
            own = F.cross_entropy(masked, among, reduction="none")  # [B]
        return mean_of_own(own, ctx) + self.replay_weight * mean_of_replayed(losses, ctx)
