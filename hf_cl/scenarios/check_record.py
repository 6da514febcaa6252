"""Which pictures were found whole, and what their pixels are, written down so that the next start looks only at what has changed.

Letters: n pictures.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from hf_cl.cache_folder import cache_folder

logger = logging.getLogger(__name__)

RULES = 2
"""Counts up when `hf_cl.pictures` refuses something that it took before, or makes other pixels of it, and when an entry changes."""
KEPT = 500
"""Data sets whose records are kept, the newest; a record has 24 bytes per picture."""
ENTRY = np.dtype([("stamp", "<u8"), ("digest", "<u8", (2,))])


class CheckRecord:
    """The stamps of pictures that were decoded without a fault, of one data set, and the digests of their pixels.

    A stamp is a hash of name, size and time of the last change, so a picture that is replaced is looked at again.

    Args:
        name: what tells the data set from others.
    """

    def __init__(self, name: str) -> None:
        digest = hashlib.blake2b(f"{RULES} {PIL.__version__} {name}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
        self.path = cache_folder() / "checked" / f"{digest}.stamps"

    def known(self, stamps: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """Which of `stamps` [n] are those of pictures that were found whole, and the digests [n, 2] of these; 0 for the others."""
        entries = self._read()
        if not len(entries):
            return np.zeros(len(stamps), dtype=bool), np.zeros((len(stamps), 2), dtype=np.uint64)
        place = np.searchsorted(entries["stamp"], stamps).clip(max=len(entries) - 1)  # [n]
        found = (entries["stamp"][place] == stamps) & (stamps != 0)
        return found, np.where(found[:, None], entries["digest"][place], 0).astype(np.uint64)

    def add(self, stamps: NDArray[np.uint64], digests: NDArray[np.uint64]) -> None:
        """Write down that the pictures of `stamps` [n] are whole, and what their pixels are, [n, 2].

        A folder that cannot be written to is no fault: all is looked at again.
        """
        new = np.empty(int((stamps != 0).sum()), dtype=ENTRY)
        new["stamp"], new["digest"] = stamps[stamps != 0], digests[stamps != 0]
        both = np.concatenate([new, self._read()])
        known = both[np.unique(both["stamp"], return_index=True)[1]]  # the new entry of a stamp that stands twice
        aside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(known.tobytes())
            aside.rename(self.path)
            _forget_oldest(self.path.parent)
        except OSError as error:
            logger.info("%s: which images were found whole cannot be written down (%s).", self.path, error)

    def _read(self) -> NDArray[Any]:
        """The entries, by ascending stamp."""
        try:
            found = self.path.read_bytes()
        except OSError:  # none yet
            found = b""
        whole = len(found) // ENTRY.itemsize * ENTRY.itemsize  # a full disk may have left a part
        entries = np.frombuffer(found[:whole], dtype=ENTRY)
        return entries if (entries["stamp"][1:] > entries["stamp"][:-1]).all() else entries[:0]


def _forget_oldest(folder: Path) -> None:
    records = sorted(folder.glob("*.stamps"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in records[KEPT:]:
        old.unlink(missing_ok=True)
