"""Pictures known by what is in them, wherever they lie and whatever they are called."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from hf_cl.scenarios.image_set import ImageSet

_PIECE = 64
"""Pictures that one thread takes at a time."""


def content_hashes(images: ImageSet) -> list[str]:
    """A hash of each picture's bytes as they are stored (a file's, a table cell's), 32 hexadecimal digits; a copy has the same."""

    def of(positions: range) -> list[str]:
        rows = [int(images.indices[position]) for position in positions]
        return [hashlib.blake2b(images.store.content(row), digest_size=16).hexdigest() for row in rows]

    pieces = [range(start, min(start + _PIECE, len(images))) for start in range(0, len(images), _PIECE)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return [found for piece in pool.map(of, pieces) for found in piece]
