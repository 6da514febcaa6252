"""How much of the base a mask leaves away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.adapters import MaskTuningModel
from hf_cl.contracts import Probe, Session, Trainer


class MaskedShare(Probe):
    """Share of the weights that are set to zero at the end of each session, layer by layer.

    `end_session` raises ValueError for another adapter than MASK_TUNING.
    """

    name = "masked_share"

    def __init__(self) -> None:
        self._shares: dict[int, dict[str, float]] = {}

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, MaskTuningModel):
            raise ValueError(f"The probe masked_share needs a MASK_TUNING adapter; this run has a {type(trainer.tuner).__name__}.")
        self._shares[session.id] = trainer.tuner.masked_shares()

    def report(self) -> dict[str, Any]:
        return {"shares": [self._shares[session] for session in sorted(self._shares)]}

    def state_dict(self) -> dict[str, Any]:
        return {"shares": [[session, shares] for session, shares in self._shares.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shares = {int(session): dict(shares) for session, shares in state["shares"]}
