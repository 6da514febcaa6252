"""The norm of mask scores, which draws them towards masking."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_cl.adapters import MaskTuningModel
from hf_cl.contracts import Context, LossTerm, Session, Trainer


class MaskNorm(LossTerm):
    """Sum over the masked modules of the 2-norm of their scores (not squared), as R-AMT's code has it (Zheng et al., ICCV 2023).

    It does not read the batch: the factor of a micro-batch divides it, so that a step counts it once.

    Args:
        weight: a number, or a function of the phase's epoch.

    Raises ValueError at the beginning of a session whose adapter is not MASK_TUNING.
    """

    name = "mask_norm"

    def __init__(self, weight: float | Callable[[int], float] = 1e-4) -> None:
        self.weight = weight
        self._tuner: MaskTuningModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, MaskTuningModel):
            raise ValueError(f"MaskNorm needs a MASK_TUNING adapter; this run has a {type(trainer.tuner).__name__}. Leave the term out.")
        self._tuner = trainer.tuner

    def __call__(self, ctx: Context) -> Tensor:
        if self._tuner is None:
            raise RuntimeError("MaskNorm: no session has begun; the term learns the adapter in begin_session.")
        norms = [torch.linalg.vector_norm(scores) for scores in self._tuner.scores()]
        return torch.stack(norms).sum() if norms else ctx.logits.new_zeros(())
