"""Accuracy of each session by the model that it ended with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_cl.adapters import DstModel
from hf_cl.contracts import Probe, Session, Trainer


class IsolatedAccuracy(Probe):
    """Task-incremental evaluation of DST: images of session j go through the entries of sessions 0 to j, and one of its classes is
    chosen.

    Nothing of that moves in later sessions (with the head's old rows at rest), so forgetting is zero by construction; what is measured is
    that it is. It takes the session's number at prediction, which the other metrics do not.

    `end_session` raises ValueError for another adapter than DST.
    """

    name = "isolated_accuracy"

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, DstModel):
            raise ValueError(f"The probe isolated_accuracy needs a DST adapter; this run has a {type(trainer.tuner).__name__}.")
        roles = trainer.tuner.roles
        row = []
        for number, test in enumerate(session.tests):
            found = trainer.features_of(test.data, role=roles[min(number, len(roles) - 1)])
            own = torch.tensor(test.own or sorted(set(found.labels.tolist())), device=found.features.device)
            logits = trainer.head(found.features)[:, own]  # [n, classes of the session]
            row.append(float((own[logits.argmax(1)] == found.labels.to(own.device)).float().mean()))
        self._rows.append(row)

    def report(self) -> dict[str, Any]:
        """`accuracy`: a row per session with the accuracies of all so far; `forgetting`: the mean fall from a session's own end."""
        falls = [self._rows[j][j] - self._rows[-1][j] for j in range(len(self._rows) - 1)]
        return {"accuracy": self._rows, "forgetting": sum(falls) / len(falls) if falls else None}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows = [list(row) for row in state["rows"]]
