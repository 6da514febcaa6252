"""Pictures known by what is in them, wherever they lie and whatever they are called."""

from __future__ import annotations

import hashlib
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ImageStore

_PIECE = 64
"""Pictures that one thread takes at a time."""
_FOUND: weakref.WeakKeyDictionary[ImageStore, dict[int, str]] = weakref.WeakKeyDictionary()
"""Hashes by row: each picture is read once."""


def content_hashes(images: ImageSet) -> list[str]:
    """A hash of each picture's bytes as they are stored (a file's, a table cell's), 32 hexadecimal digits; a copy has the same.

    A picture is read once for as long as its store lives.
    """
    found = _FOUND.setdefault(images.store, {})
    rows = images.indices.tolist()
    missing = [row for row in rows if row not in found]

    def look(piece: list[int]) -> None:
        for row in piece:
            found[row] = hashlib.blake2b(images.store.content(row), digest_size=16).hexdigest()

    pieces = [missing[start : start + _PIECE] for start in range(0, len(missing), _PIECE)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(look, pieces))
    return [found[row] for row in rows]
