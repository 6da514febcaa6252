"""Pictures are looked at before anything trains: each once, until it changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from hf_cl.errors import UnreadableImageError
from hf_cl.pictures import readable, to_rgb
from hf_cl.scenarios.check_record import CheckRecord
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ImageStore
from hf_cl.scenarios.pixel_digests import digests_of_store, pixel_digest

Look = Literal["all", "changed", "header", "none"]
Seen = Callable[[Any, int, Image.Image], None]
"""(source, row, picture as 8-bit RGB): called for what was decoded, by several threads."""

_CHUNK = 1024
"""Images between two reports of progress; an interrupt waits for these alone."""
_PIECE = 32
"""Images that one thread takes at a time."""
_BYTES_PER_PIXEL = 12
"""Of a picture while it is decoded, turned and shrunk: Pillow has 4 for RGB, and up to two copies."""
_ROOM = 400 << 20
"""Bytes of all pictures that are decoded at one time."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be decoded: its position in the set, its file or row, and why."""

    position: int
    where: str
    cause: str


def check_pictures(
    images: ImageSet, *, look: Look = "changed", seen: Seen | None = None, progress: Callable[[int, int], None] | None = None
) -> list[UnreadableImage]:
    """The images that cannot be decoded, in order. What was decoded, now or when it was found whole, has a digest (`pixel_digests`).

    Args:
        images: the set.
        look: "all" decodes all; "changed" those that were not found whole before or have changed since, by name, size and time (of a table:
            of its files); "header" reads the headers of these and decodes none, and "none" looks at nothing.
        seen: gets every picture that was decoded, so that nobody has to do it again.
        progress: called now and then with (images done, images in all).
    """
    if look == "none":
        return []
    stamps = images.store.stamps(images.indices.tolist())  # [n]
    record, digests = CheckRecord(images.store.place), digests_of_store(images.store)
    new = np.ones(len(images), dtype=bool)  # [n]
    if stamps is not None and look != "all":
        known, before = record.known(stamps)
        new, digests[images.indices[known]] = ~known, before[known]

    def decoded(store: ImageStore, row: int, picture: Image.Image) -> None:
        digests[row] = pixel_digest(picture)
        if seen is not None:
            seen(store, row, picture)

    positions = np.flatnonzero(new).tolist()
    found = find_unreadable(images, positions=positions, header=look == "header", seen=decoded, progress=progress)
    if stamps is not None and positions and look != "header":
        new[[bad.position for bad in found]] = False
        record.add(stamps[new], digests[images.indices[new]])
    return found


def find_unreadable(
    images: ImageSet,
    *,
    positions: Sequence[int] | None = None,
    header: bool = False,
    seen: Seen | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[UnreadableImage]:
    """Decode images and return those that fail, in order. Memory for decoded pictures is bounded, however large they are.

    Args:
        images: the set.
        positions: those to look at; None: all.
        header: read the header alone.
        seen: gets every picture that was decoded.
        num_threads: Pillow decodes outside of Python's lock. None: one per core, 16 at most.
        progress: called now and then with (images done, images in all).
    """
    room = _Room(_ROOM)

    def look_at(row: int) -> None:
        def where() -> str:
            return images.store.describe(row)

        with readable(where):
            image = images.store.open(row)
        with image, room.of(0 if header else _BYTES_PER_PIXEL * image.width * image.height):
            if header:
                return
            with readable(where):
                picture = to_rgb(image)
            if seen is not None:
                seen(images.store, row, picture)

    def check(some: Sequence[int]) -> list[UnreadableImage]:
        bad = []
        for position in some:
            try:
                look_at(int(images.indices[position]))
            except UnreadableImageError as error:
                bad.append(UnreadableImage(position, error.where, error.cause))
        return bad

    wanted = range(len(images)) if positions is None else positions
    found: list[UnreadableImage] = []
    with ThreadPoolExecutor(num_threads or min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            found += [bad for piece in pool.map(check, [chunk[i : i + _PIECE] for i in range(0, len(chunk), _PIECE)]) for bad in piece]
            if progress is not None:
                progress(start + len(chunk), len(wanted))
    return found


class _Room:
    """Bytes that may be taken at one time; what is larger than all of them is let in alone."""

    def __init__(self, size: int) -> None:
        self._size, self._taken, self._changed = size, 0, threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
