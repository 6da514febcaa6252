"""Which classes compete in a loss.

Shapes: B batch, C classes seen so far, c those that compete.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hf_cl.contracts import Context, Session

Classes = Literal["new", "seen"]
"""The session's own classes (`Session.own`), or all so far; inside an ordered session those of them that have come."""


def check_classes(classes: str, who: str) -> None:
    """Raise ValueError for another word than "new" and "seen"."""
    if classes not in ("new", "seen"):
        raise ValueError(f"{who}: classes must be 'new' or 'seen', got {classes!r}.")


def needed(classes: Classes) -> frozenset[str]:
    """What a loss over these classes needs of the loop."""
    return frozenset({"all_classes" if classes == "seen" else "own_classes"})


def first_column(classes: Classes, session: Session) -> int:
    """The first of the columns that compete; they go to the end."""
    return session.own.start if classes == "new" else 0


def competing(classes: Classes, ctx: Context) -> tuple[Tensor, Tensor]:
    """Logits [B, c] and labels [B] among the classes that compete."""
    first = first_column(classes, ctx.session)
    return ctx.logits[:, first : ctx.exposed], ctx.labels - first  # [B, c], [B]
