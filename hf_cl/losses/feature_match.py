"""Distance of the hidden states to those of the original.

Shapes: B batch, N tokens, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters import LowRankModel
from hf_cl.adapters.block_outputs import NAME
from hf_cl.contracts import Context, LossTerm, Session, Trainer


class FeatureMatch(LossTerm):
    """Mean over embedding and blocks of the mean squared error between their outputs s_k and those t_k of the original, [B, N, D] each.

    The feature distillation of PELA (Guo et al., CVPR 2024, arXiv 2310.10700; `engine.py` of its DeiT code, in one forward of the student
    where the code runs two). The phase must run on images.

    Args:
        weight: a number, or a function of the phase's epoch. The published one is 1 for DeiT, 0.1 for ALBEF.

    Raises ValueError at the beginning of a session whose adapter is not LOW_RANK.
    """

    name = "feature_match"
    needs = frozenset({"pretrained", f"{NAME}0"})

    def __init__(self, weight: float | Callable[[int], float] = 1.0) -> None:
        self.weight = weight

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, LowRankModel):
            raise ValueError(f"FeatureMatch needs a LOW_RANK adapter; this run has a {type(tuner).__name__}. Leave the term out.")
        tuner.keep_blocks(True)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        assert isinstance(trainer.tuner, LowRankModel)  # as the beginning saw
        trainer.tuner.keep_blocks(False)

    def __call__(self, ctx: Context) -> Tensor:
        theirs = ctx.frozen("pretrained", view=0).extras
        errors = [F.mse_loss(ours, theirs[name].to(ours)) for name, ours in _wide(ctx).items()]
        return torch.stack(errors).mean()


def _wide(ctx: Context) -> dict[str, Tensor]:
    """The student's outputs, in float32 or wider."""
    blocks = {name: tensor for name, tensor in ctx.extras.items() if name.startswith(NAME)}
    return {name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in blocks.items()}
