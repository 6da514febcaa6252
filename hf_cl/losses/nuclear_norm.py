"""The rank term of SaRA."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hf_cl.adapters import SaraModel
from hf_cl.contracts import Context, LossTerm, Session, Trainer


class NuclearNorm(LossTerm):
    """Nuclear norm (sum of the singular values) of the matrices that a SARA adapter trains, so that what it learns stays of low rank.

    `lambda ||P . M||_*` of SaRA (Hu et al., ICLR 2025): P the effective weight, M the mask of the entries that still train; the gradient is
    `lambda U V^T . M`. Whether one random matrix per step or all of them, and their values or their changes, the adapter's config says
    (`rank_mode`, `rank_on`); `SaraModel.rank_loss` computes it. It belongs to the loss, so mixed precision, accumulation and several
    processes treat it like one, and a step's micro-batches share the draw. On a GPU each call waits for the device: every routine for
    singular values checks on the host whether it has converged.

    Args:
        weight: lambda, a number or a function of the phase's epoch. The official README has 5e-4, the paper's best is 5e-3.

    Raises ValueError at the beginning of a session whose adapter is not SARA, and when called where no matrix is large enough.
    """

    name = "nuclear_norm"

    def __init__(self, weight: float | Callable[[int], float] = 5e-4) -> None:
        self.weight = weight
        self._tuner: SaraModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, SaraModel):
            raise ValueError(f"NuclearNorm needs a SARA adapter; this run has a {type(tuner).__name__}. Leave the term out.")
        self._tuner = tuner

    def __call__(self, ctx: Context) -> Tensor:
        if self._tuner is None:
            raise RuntimeError("NuclearNorm: no session has begun; the term learns the adapter in begin_session.")
        return self._tuner.rank_loss(ctx.step)
