"""The processes of one machine, which wait for each other and tell each other things through a folder.

Files and not accelerate: who waits here may wait for half an hour while another process looks at a data set, which a collective of NCCL
does not survive; and nothing runs on the device.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFIX = "hf_cl-pixels-"


class Host:
    """This process among those of its machine.

    Args:
        rank, size: this process and the number of processes on the machine.
        folder: the same empty one for all of them (`make_folder`); None where there is one process alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, folder: Path | None = None) -> None:
        self.rank, self.size, self.folder = rank, size, folder
        self._waits = self._told = 0
        if folder is not None:
            self._finalizer = weakref.finalize(self, _leave, folder, rank, size)

    @property
    def alone(self) -> bool:
        return self.folder is None

    def wait(self) -> None:
        """Return when every process of the machine has come here."""
        if self.folder is None:
            return
        self._waits += 1
        (self.folder / f"wait-{self._waits}-{self.rank}").touch()
        for rank in range(self.size):
            _until((self.folder / f"wait-{self._waits}-{rank}").exists)
        (self.folder / f"wait-{self._waits - 1}-{self.rank}").unlink(missing_ok=True)  # all have passed the last one

    def once(self, make: Callable[[], Any]) -> Any:
        """What `make` gives, called by one process and told to the others as JSON. Raises on all of them what it raises on the one."""
        if self.folder is None:
            return make()
        self._told += 1
        path = self.folder / f"told-{self._told}"
        if self.rank == 0:
            try:
                told = make()
            except BaseException as error:
                _write(path, {"error": str(error) or type(error).__name__})
                raise
            _write(path, {"value": told})
            return told
        _until(path.exists)
        found = json.loads(path.read_text())
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["value"]


def make_folder() -> Path:
    """A folder in memory where the system has one, else among temporary files. Folders of processes that were killed go first."""
    memory = Path("/dev/shm")  # what Linux calls its file system in memory
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


def _leave(folder: Path, rank: int, size: int) -> None:
    """The last one to leave removes the folder."""
    try:
        (folder / f"left-{rank}").touch()
    except OSError:  # the last one was quicker
        return
    if all((folder / f"left-{other}").exists() for other in range(size)):
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _write(path: Path, value: Any) -> None:
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value))
    aside.rename(path)


def _until(there: Callable[[], bool]) -> None:
    pause = 0.0005
    while not there():
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
