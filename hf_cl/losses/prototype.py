"""Class rows that are pulled to the embeddings of their class.

Shapes: B batch, C classes seen so far, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, Head, LossTerm, Session, Trainer
from hf_cl.heads.rows import class_rows


class PrototypeLoss(LossTerm):
    """`mean_i 1 - cos(f_i, p_{y_i})` over all views: each row of the head moves towards the embeddings of its class, which are not moved.

    The prototype term of PRD (Asadi et al., "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning", ICML 2023,
    arXiv 2303.14771; code: github.com/naderAsadi/Probing-Continual-Learning). Rows of classes that have no image in the batch get no
    gradient. In float32 under autocast too; a row or an embedding of length 0 gives a finite loss.

    Args:
        weight: a number, or a function of the phase's epoch.

    Raises ValueError at the beginning of a session whose head has no rows of classes that train.
    """

    name = "prototype"

    def __init__(self, weight: float | Callable[[int], float] = 2.0) -> None:
        self.weight = weight

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._head = trainer.head
        trained_rows(self._head, type(self).__name__)

    def __call__(self, ctx: Context) -> Tensor:
        rows = trained_rows(self._head, type(self).__name__)  # [C, E]
        cosines = torch.stack([_cosines(view.embedding.detach(), rows[ctx.labels]) for view in ctx.views])  # [V, B]
        return 1 - cosines.mean()


def trained_rows(head: Head, who: str) -> Tensor:
    """[C, E] the head's rows, which train. Raises ValueError for a head that is fitted, or keeps its classes otherwise."""
    rows = class_rows(head).get("weight")
    if rows is None or head.fits:
        raise ValueError(
            f"{who} moves the head's rows of classes, and a {type(head).__name__} has none that training makes. Take one with rows, such "
            "as --head '{type: cosine}'."
        )
    return rows


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """[B, E] and [B, E] -> [B]"""
    wide = torch.promote_types(b.dtype, torch.float32)
    with torch.autocast(b.device.type, enabled=False):
        return (F.normalize(a.to(wide), dim=-1) * F.normalize(b.to(wide), dim=-1)).sum(-1)
