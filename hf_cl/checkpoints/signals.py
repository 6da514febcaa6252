"""SIGTERM and SIGINT as a wish to stop: neither a cluster that pre-empts nor Ctrl-C should cost the work since the last checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, the first SIGTERM or SIGINT is remembered in `received`; a second one acts as if nobody were listening.

    A signal that is ignored stays so. Does nothing outside of the main thread, where Python hands out no signals.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, a shell's background
            self._before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
