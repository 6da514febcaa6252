"""Weights of the base that an adapter of type ASYNC_LORA trains as copies of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.contracts import Part, Session, Trainer


class Unfreeze(Part):
    """Puts the copies to use as soon as a phase trains them: they begin at the base's values, and from then on the adapter's file has them.

    For adapters of type ASYNC_LORA with `unfreeze_from`. CoACT's teacher, which follows the copies, is a part of its own that builds on
    this one.
    """

    _teacher = False
    """Whether a moving average of the copies begins with them."""

    def __init__(self) -> None:
        self._tuner: Any = None
        self._waiting: Mapping[str, Any] | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """Raises ValueError for an adapter that has no copies."""
        self._tuner = trainer.tuner
        if "unfrozen" not in self._tuner.trained_fields:
            raise ValueError(
                "The part unfreeze is for adapters of type async_lora, which hold copies of what is unfrozen; "
                f"{type(self._tuner).__name__} has none."
            )
        if self._waiting is not None:  # a resumed run restores its state between sessions, before it has a tuner
            self._tuner.load_training_state(self._waiting)
            self._waiting = None

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Unfreeze where the phase trains copies."""
        if self._tuner.copies_train():
            self._tuner.unfreeze(teacher=self._teacher)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._tuner is None else self._tuner.training_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        if self._tuner is None:
            self._waiting = state
        else:
            self._tuner.load_training_state(state)
