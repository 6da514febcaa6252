"""Rows of earlier classes stay where they are.

Shapes: C classes seen so far, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Part, Trainer
from hf_cl.heads.rows import class_rows


class OldRowsRest(Part):
    """Puts the head's rows of earlier classes back after every step.

    A loss over the session's own classes gives them no gradient, but weight decay and momentum move what has a gradient of zero. In a
    session without a new class no row rests.

    Raises ValueError at the first epoch of a session whose head has no class rows.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """The rows as they are: other parts may have changed them when the session began, and since then they rest."""
        rows = class_rows(trainer.head)
        if not rows:
            raise ValueError(f"OldRowsRest holds rows of classes, and a {type(trainer.head).__name__} has none that train.")
        first = trainer.session.own.start
        self._rows = {name: row[:first].clone() for name, row in rows.items()}

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        if not trainer.session.own.start:
            return
        for name, row in class_rows(trainer.head).items():
            old = self._rows[name] = self._rows[name].to(row.device, non_blocking=True)  # on the CPU after a resume
            row[: len(old)] = old

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows = dict(state["rows"])
