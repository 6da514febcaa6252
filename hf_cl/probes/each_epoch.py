"""Base of probes that look at some images after every epoch of a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.contracts import ImageDataset, Probe, Session, Trainer


class EachEpoch(Probe):
    """A subclass sets `_data` and `_trace` as a session begins, with `_begun` at 0, appends to the trace in `_look`, and says in
    `end_session`, after `_last_look`, what the trace tells.

    Args:
        every: epochs between two looks; the last epoch is always looked at.
        images: at most so many are looked at.

    Raises ValueError for numbers below 1.
    """

    def __init__(self, every: int, images: int) -> None:
        if every < 1 or images < 1:
            raise ValueError(f"{type(self).__name__}: every and images must be at least 1, got {every} and {images}.")
        self.every, self.images = every, images
        self._data: ImageDataset | None = None
        self._begun = 0
        """Epochs of this session that have begun."""
        self._trace: dict[str, list[Any]] = {}
        self._sessions: list[dict[str, Any]] = []

    def _look(self, trainer: Trainer, session: Session) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not implement _look")

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Of the epoch that has just ended: the contract has no hook at an epoch's end."""
        if self._begun and self._begun % self.every == 0:
            self._look(trainer, trainer.session)
        self._begun += 1

    def _last_look(self, trainer: Trainer, session: Session) -> None:
        if self._begun:
            self._look(trainer, session)

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self._sessions, "trace": self._trace, "begun": self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions, self._begun = [*state["sessions"]], int(state["begun"])
        self._trace = {key: [*values] for key, values in state["trace"].items()}
