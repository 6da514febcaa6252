"""How far a compander lets weights move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.adapters import CompanderModel
from hf_cl.contracts import Probe, Session, Trainer


class CompanderBounds(Probe):
    """The limit a pi/2 of each layer at the end of each session: with `learn` it moves.

    `end_session` raises ValueError for another adapter than COMPANDER.
    """

    name = "compander_bounds"

    def __init__(self) -> None:
        self._bounds: dict[int, dict[str, float]] = {}

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, CompanderModel):
            raise ValueError(f"The probe compander_bounds needs a COMPANDER adapter; this run has a {type(trainer.tuner).__name__}.")
        self._bounds[session.id] = trainer.tuner.limits()

    def report(self) -> dict[str, Any]:
        return {"bounds": [self._bounds[session] for session in sorted(self._bounds)]}

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": [[session, bounds] for session, bounds in self._bounds.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._bounds = {int(session): dict(bounds) for session, bounds in state["bounds"]}
