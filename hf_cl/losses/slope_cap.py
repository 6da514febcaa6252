"""A cap on how steep later sessions' decisions may become.

Shapes: B batch, D feature width, C classes seen so far, c classes of the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.heads import CosineHead, LinearHead

logger = logging.getLogger(__name__)


class SlopeCap(LossTerm):
    """`mean over ordered pairs a != b of the session's classes of relu(||w_a - w_b|| - alpha)`, alpha the mean pair slope of session 0.

    A session's cross-entropy compares its own classes with each other only, so nothing fixes how steep their logits are; one that trains
    longer gets longer rows and wins against all others. `||w_a - w_b||` is the slope of the margin between two classes. The one-sided
    penalty on a boundary's slope is that of OReX (Sawdayee et al., CVPR 2023; code: haimsaw/OReX); its use on heads is ours. For heads that
    are not linear in what they read, `of="margin"` penalises the norm of the gradient of the margin to the runner-up, image by image.

    Args:
        weight: a number, or a function of the phase's epoch; the hinge only has to be stiff enough.
        alpha: "first_session", or a number above 0.
        of: "rows" or "margin".

    Raises ValueError for values out of range, and at the beginning of a session for a head without rows under `of="rows"`, for one whose
    slope is fixed (cosine, prototype), and where session 0 was not seen or has one class.
    """

    name = "slope_cap"

    def __init__(
        self,
        weight: float | Callable[[int], float] = 1.0,
        alpha: Literal["first_session"] | float = "first_session",
        of: Literal["rows", "margin"] = "rows",
    ) -> None:
        if not callable(weight) and weight < 0:
            raise ValueError(f"SlopeCap: weight must not be negative, got {weight}.")
        if of not in ("rows", "margin"):
            raise ValueError(f"SlopeCap: of must be 'rows' or 'margin', got {of!r}.")
        if alpha != "first_session" and not (isinstance(alpha, int | float) and alpha > 0):
            raise ValueError(f"SlopeCap: alpha must be 'first_session' or a number above 0, got {alpha!r}.")
        self.weight, self.alpha, self.of = weight, alpha, of
        self._cap: float | None = None if alpha == "first_session" else float(alpha)
        self._head: nn.Module | None = None
        if alpha == "first_session":
            self.needs_first_session = "alpha comes from session 0 (give it as a number)"

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._head = trainer.head
        if self.of == "rows":
            linear_rows(trainer.head)
            if session.id == 0 and self.alpha == "first_session" and len(session.class_names) == 1:
                raise ValueError("SlopeCap: session 0 has one class, so no pair that alpha could come from; give alpha as a number.")
            if session.id > 0 and len(session.own) == 1:
                logger.warning("SlopeCap: session %d has one class, so no pair; the term is 0 there.", session.id)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if self.alpha == "first_session" and session.id == 0:
            rows = linear_rows(trainer.head) if self.of == "rows" else None
            if rows is None:
                raise ValueError("SlopeCap: give alpha as a number where of='margin'; session 0 has rows for a linear head alone.")
            self._cap = float(pair_norms(rows.detach()).mean())

    def __call__(self, ctx: Context) -> Tensor:
        if ctx.session.id == 0 and self.alpha == "first_session" and self._head is not None:
            return linear_rows(self._head).sum() * 0  # with a gradient, of 0: nobody needs to be told that it trains nothing here
        if self._cap is None or self._head is None:
            raise ValueError("SlopeCap: alpha comes from session 0, which this loss has not seen; list it there, or give alpha.")
        if self.of == "rows":
            return pair_hinge(linear_rows(self._head)[ctx.session.own.start :], self._cap)
        return margin_hinge(ctx.logits, ctx.labels, ctx.features, self._cap)

    def state_dict(self) -> dict[str, Any]:
        return {"cap": self._cap}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._cap = state["cap"]


def linear_rows(head: nn.Module) -> Tensor:
    """[C, D] the rows of a linear head. Raises ValueError for another one."""
    if isinstance(head, CosineHead):
        raise ValueError(
            f"SlopeCap: a {type(head).__name__} has one slope by construction, so there is nothing to cap; leave the loss out."
        )
    if not isinstance(head, LinearHead):
        raise ValueError(
            f"SlopeCap(of='rows') needs a linear head, this one is a {type(head).__name__}; use of='margin' with alpha a number."
        )
    return head.weight


def pair_norms(rows: Tensor) -> Tensor:
    """[c, D] -> [c (c - 1)] the distances of all ordered pairs."""
    c = len(rows)
    pairs = (rows[:, None] - rows).flatten(0, 1)  # [c c, D]: every c + 1 rows one of a class to itself
    # cut out by shape: a mask would be counted on the host, which waits for the device
    return pairs[1:].view(c - 1, c + 1, rows.shape[1])[:, :-1].flatten(0, 1).norm(dim=-1)


def pair_hinge(rows: Tensor, cap: float) -> Tensor:
    """Mean over ordered pairs of what exceeds the cap; 0 for a single row."""
    return (pair_norms(rows) - cap).relu().mean() if len(rows) > 1 else rows.sum() * 0


def margin_hinge(logits: Tensor, labels: Tensor, features: Tensor, cap: float) -> Tensor:
    """Mean over the batch of `relu(||d (z_y - z_k) / d f|| - cap)`, k the runner-up."""
    own = logits.gather(1, labels[:, None])[:, 0]  # [B]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    margin = own - others.max(1).values  # [B]
    (slopes,) = torch.autograd.grad(margin.sum(), features, create_graph=True)  # [B, D]
    return (slopes.norm(dim=-1) - cap).relu().mean()
