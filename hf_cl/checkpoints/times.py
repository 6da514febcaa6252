"""When a checkpoint is due: after N steps, after T minutes, and when a signal asks the run to stop. All processes agree."""

from __future__ import annotations

import time
from typing import Any

import torch

from hf_cl.checkpoints.signals import StopSignals
from hf_cl.settings import TrainingSettings


class CheckpointTimes:
    """Asked after every step.

    One process looks at its clock and its signals at every step. Several must agree, which takes a message between them, so they look
    where the losses are read anyway.
    """

    def __init__(self, settings: TrainingSettings, accelerator: Any, signals: StopSignals) -> None:
        self.settings, self.accelerator, self.signals = settings, accelerator, signals
        self.stopping = 0
        """Number of the signal that all processes have agreed to stop for; 0: go on."""
        self._last = time.monotonic()

    def due(self, step: int, reading: bool) -> bool:
        """Whether to write a checkpoint now. `reading`: the losses of this step are read."""
        every, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        timed_out = minutes is not None and time.monotonic() - self._last >= 60 * minutes
        agreed = int(timed_out), self.signals.received
        if self.accelerator.num_processes > 1:
            agreed = self._agree(*agreed) if reading else (0, 0)
        timed_out, self.stopping = bool(agreed[0]), agreed[1]
        return timed_out or bool(self.stopping) or (every is not None and step % every == 0)

    def agree_to_stop(self, step: int) -> None:
        """Learn whether a signal has come; for the end of a session, where a checkpoint is written in any case."""
        self.due(step, reading=True)

    def _agree(self, timed_out: int, signal: int) -> tuple[int, int]:
        mine = torch.tensor([[timed_out, signal]], device=self.accelerator.device)
        most = self.accelerator.gather(mine).amax(dim=0).tolist()  # [2]
        return most[0], most[1]

    def written(self) -> None:
        """A checkpoint has just been written."""
        self._last = time.monotonic()
