"""Cross-entropy that knows how rare the replayed classes are.

Shapes: B batch, C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer


class BalancedSoftmax(LossTerm):
    """Cross-entropy of logits plus the logarithm of how often each class is trained on, so that a class with 20 exemplars is not
    pushed down by those with 500 images; predictions use the logits alone.

    Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition" (NeurIPS 2020), equation 3; with exemplars, Jodelet, Liu,
    Murata, "Balanced Softmax Cross-Entropy for Incremental Learning" (ICANN 2021). Where images are drawn beside the batches, a class's
    share of the draws counts, not of the memory alone.

    Args:
        weight: a number, or a function of the phase's epoch.
    """

    name = "balanced_softmax"
    needs = frozenset({"all_classes"})

    def __init__(self, weight: float | Callable[[int], float] = 1.0) -> None:
        self.weight = weight
        self._log_share: Tensor | None = None  # [C]

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        classes = len(session.class_names)
        own = np.bincount(np.asarray(session.train.labels), minlength=classes).astype(float)  # [C]
        kept = np.bincount(np.asarray(session.training_images.labels), minlength=classes) - own  # [C]
        beside = 0 if trainer.memory is None else min(trainer.memory.replay, int(kept.sum()))
        if beside:
            batch = min(session.batch_size or len(session.train), len(session.train))
            kept = kept * (beside / batch) * (own.sum() / kept.sum())
        share = np.maximum(own + kept, 1e-6)  # a class without an image now is rarer than any that has one
        device = trainer.accelerator.device
        self._log_share = torch.tensor(np.log(share / share.sum()), dtype=torch.float32, device=device)

    def __call__(self, ctx: Context) -> Tensor:
        if self._log_share is None:
            raise RuntimeError("BalancedSoftmax: no session has begun; classes are counted in begin_session.")
        logits = ctx.logits.to(torch.promote_types(ctx.logits.dtype, torch.float32))
        return F.cross_entropy((logits + self._log_share)[:, : ctx.exposed], ctx.labels)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Counted again in `begin_session`."""
