"""Which pictures were found whole, written down so that the next start looks only at what has changed.

Letters: n pictures.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from hf_cl.cache_folder import cache_folder

logger = logging.getLogger(__name__)

RULES = 1
"""Counts up when `hf_cl.pictures` refuses something that it took before."""
KEPT = 500
"""Data sets whose records are kept, the newest; a record has 8 bytes per picture."""


class CheckRecord:
    """The stamps of pictures that were decoded without a fault, of one data set.

    A stamp is a hash of name, size and time of the last change, so a picture that is replaced is looked at again.

    Args:
        name: what tells the data set from others.
    """

    def __init__(self, name: str) -> None:
        digest = hashlib.blake2b(f"{RULES} {PIL.__version__} {name}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
        self.path = cache_folder() / "checked" / f"{digest}.stamps"

    def known(self, stamps: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of `stamps` [n] are those of pictures that were found whole."""
        return np.isin(stamps, self._read()) & (stamps != 0)

    def add(self, stamps: NDArray[np.uint64]) -> None:
        """Write down that the pictures of `stamps` are whole. A folder that cannot be written to is no fault: all is looked at again."""
        known = np.union1d(self._read(), stamps[stamps != 0])
        aside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(known.astype("<u8").tobytes())
            aside.rename(self.path)
            _forget_oldest(self.path.parent)
        except OSError as error:
            logger.info("%s: which images were found whole cannot be written down (%s).", self.path, error)

    def _read(self) -> NDArray[np.uint64]:
        try:
            found = self.path.read_bytes()
        except OSError:  # none yet
            found = b""
        whole = len(found) // 8 * 8  # a full disk may have left a part
        return np.frombuffer(found[:whole], dtype="<u8").astype(np.uint64)


def _forget_oldest(folder: Path) -> None:
    records = sorted(folder.glob("*.stamps"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in records[KEPT:]:
        old.unlink(missing_ok=True)
