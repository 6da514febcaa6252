"""Which images of a batch are of session 0, for losses of a branch that new classes alone should use.

Shapes: B batch, M images of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.heads.etf import ETFHead
from hf_cl.heads.selective_scan import EXTRAS
from hf_cl.losses.global_batch import gather_batch


class BothKinds(NamedTuple):
    """What `OfBranches.both_kinds` gives."""

    rows: list[Tensor]
    """[M, ...] each; gradients flow through this process's part alone."""
    base: Tensor
    """[M] bool: images of session 0's classes."""
    novel: Tensor
    """[M] bool: images of others."""
    valid: Tensor
    """[M] as `gather_batch` gives it."""


class OfBranches(LossTerm):
    """Knows the number of session 0's classes: it stands in a method's `parts` too, so that it hears of session 0.

    The images of all processes are compared, within a micro-batch; without images of either kind the value is 0.
    """

    first_session = 1

    def __init__(self) -> None:
        self._base = 0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, ETFHead) or trainer.head.extras != EXTRAS:
            raise ValueError(f"{self.name} is for an etf head with projector: selective_scan; leave it out.")
        if session.id == 0:
            self._base = len(session.class_names)

    def both_kinds(self, ctx: Context, *rows: Tensor) -> BothKinds:
        """What belongs to the images of all processes, `rows` [B, ...] of this one's, and which of them are of session 0's classes."""
        (labels, *everybody), valid = gather_batch(ctx.batch["index"], ctx.labels, *rows)
        base = labels < self._base
        return BothKinds(everybody, base & valid, ~base & valid, valid)

    def state_dict(self) -> dict[str, Any]:
        return {"base": self._base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._base = int(state["base"])
