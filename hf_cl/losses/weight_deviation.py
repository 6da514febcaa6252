"""Distance of factored weights to the original ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hf_cl.adapters import LowRankModel
from hf_cl.contracts import Context, LossTerm, Session, Trainer


class WeightDeviation(LossTerm):
    """Mean over the factored matrices of (max |up down - W| - eps)^2: the largest error of each is drawn towards eps, from both sides.

    PELA's penalty (Guo et al., CVPR 2024, arXiv 2310.10700; `inf_norm` of its code, which pushes an error below eps up too). It needs no
    image, so every process computes the same.

    Args:
        weight: a number, or a function of the phase's epoch. The published one is 1 for ALBEF, 0 for DeiT.
        eps: the error that is left alone.

    Raises ValueError for an eps below 0, at the beginning of a session whose adapter is not LOW_RANK, and when called before any.
    """

    name = "weight_deviation"

    def __init__(self, weight: float | Callable[[int], float] = 1.0, eps: float = 1e-3) -> None:
        if eps < 0:
            raise ValueError(f"WeightDeviation: eps must not be negative, got {eps}.")
        self.weight, self.eps = weight, eps
        self._tuner: LowRankModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, LowRankModel):
            raise ValueError(f"WeightDeviation needs a LOW_RANK adapter; this run has a {type(tuner).__name__}. Leave the term out.")
        self._tuner = tuner

    def __call__(self, ctx: Context) -> Tensor:
        if self._tuner is None:
            raise RuntimeError("WeightDeviation: no session has begun; the term learns the adapter in begin_session.")
        return (self._tuner.largest_errors() - self.eps).square().mean()
