"""Which images of a batch are of session 0, for losses of a branch that new classes alone should use.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.heads.etf import ETFHead
from hf_cl.heads.selective_scan import EXTRAS


class OfBranches(LossTerm):
    """Knows the number of session 0's classes: it stands in a method's `parts` too, so that it hears of session 0.

    The images of one process and micro-batch are compared; without images of either kind there the value is 0.
    """

    first_session = 1

    def __init__(self) -> None:
        self._base = 0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, ETFHead) or trainer.head.extras != EXTRAS:
            raise ValueError(f"{self.name} is for an etf head with projector: selective_scan; leave it out.")
        if session.id == 0:
            self._base = len(session.class_names)

    def is_base(self, ctx: Context) -> Tensor:
        """[B] bool: images of session 0's classes."""
        return ctx.labels < self._base

    def state_dict(self) -> dict[str, Any]:
        return {"base": self._base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._base = int(state["base"])
