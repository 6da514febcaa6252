"""What of a sparse adapter still trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.adapters import SaraModel
from hf_cl.contracts import Probe, Session, Trainer


class ActiveEntries(Probe):
    """How many entries of a SARA adapter still train when a session begins, and of how many.

    `begin_session` raises ValueError for another adapter.
    """

    name = "active_entries"

    def __init__(self) -> None:
        self._counts: dict[int, list[int]] = {}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, SaraModel):
            raise ValueError(f"The probe active_entries needs a SARA adapter; this run has a {type(trainer.tuner).__name__}.")
        self._counts[session.id] = list(trainer.tuner.active_entries())

    def report(self) -> dict[str, Any]:
        counts = [self._counts[session] for session in sorted(self._counts)]
        return {"active_entries": [active for active, _ in counts], "entries": [total for _, total in counts]}

    def state_dict(self) -> dict[str, Any]:
        return {"counts": [[session, *counts] for session, counts in self._counts.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._counts = {int(session): [int(n) for n in counts] for session, *counts in state["counts"]}
