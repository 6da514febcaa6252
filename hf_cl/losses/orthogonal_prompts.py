"""The orthogonality penalty of CODA-Prompt.

Shapes: M components, D width of a component.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_cl.adapters import PromptPoolModel
from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.prompt_keys import Reduction


class OrthogonalPrompts(LossTerm):
    """Mean of the squared entries of X X' - 1 over keys, attentions and flattened prompts, all components so far as rows of X.

    Smith et al., "CODA-Prompt", CVPR 2023, equation 8. A gradient reaches the components of the newest session. The published scripts run
    with the weight 0, the paper names 0.1.

    Args:
        weight: of the term.
        reduction: over the layers, "mean" as in jpmorganchase/ovor or "sum" as in GT-RIPL/CODA-Prompt.

    Raises ValueError for another reduction, and at the beginning of a session whose adapter is no PROMPT_POOL of the producer coda.
    """

    name = "orthogonal_prompts"

    def __init__(self, weight: float = 0.1, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"OrthogonalPrompts: reduction is mean or sum, got {reduction!r}.")
        self.weight, self.reduction = weight, reduction
        self._tuner: PromptPoolModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, PromptPoolModel) or not tuner.components():
            raise ValueError(f"OrthogonalPrompts needs a PROMPT_POOL adapter of the producer coda; this run has a {type(tuner).__name__}.")
        self._tuner = tuner

    def __call__(self, ctx: Context) -> Tensor:
        if self._tuner is None:
            raise RuntimeError("OrthogonalPrompts: no session has begun; the term learns the adapter in begin_session.")
        layers = [sum(_penalty(pool[kind]) for kind in ("k", "a", "p")) for pool in self._tuner.components()]
        total = torch.stack(layers)  # pyright: ignore[reportArgumentType] # [layers]
        return total.mean() if self.reduction == "mean" else total.sum()


def _penalty(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)  # [M, D]
    return (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
