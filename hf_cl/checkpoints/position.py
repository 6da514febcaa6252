"""Where a run stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Position:
    """The next thing to do: batch `batch` of epoch `epoch` of phase `phase` of session `session`.

    `begun` tells whether that session has begun (head grown, hooks called, optimizer made). `session_epoch` counts epochs over the phases
    of a session, `step` optimizer steps over the whole run; `session_step`, `session_images` and `session_seconds` are the steps of the
    session, the images in them and its time.
    """

    session: int = 0
    phase: int = 0
    epoch: int = 0
    batch: int = 0
    session_epoch: int = 0
    step: int = 0
    session_step: int = 0
    session_images: int = 0
    session_seconds: float = 0.0
    begun: bool = False

    def next_batch(self, images: int) -> None:
        """A step further, which took `images` images over all processes."""
        self.batch, self.step, self.session_step = self.batch + 1, self.step + 1, self.session_step + 1
        self.session_images += images

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.session_epoch = self.epoch + 1, 0, self.session_epoch + 1

    def next_phase(self) -> None:
        self.phase, self.epoch, self.batch = self.phase + 1, 0, 0

    def next_session(self) -> None:
        self.session, self.phase, self.epoch, self.batch, self.session_epoch = self.session + 1, 0, 0, 0, 0
        self.session_step, self.session_images, self.session_seconds, self.begun = 0, 0, 0.0, False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)
