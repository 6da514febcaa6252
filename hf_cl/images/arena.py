"""Room for pixels: bytes in large chunks, handed out in slots and taken back."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 64 << 20
"""Bytes of a chunk; more only for a single picture that needs more."""

Bytes = NDArray[np.uint8]


def slot_bytes(size: int) -> int:
    """Room that `size` bytes take: rounded up by a sixteenth at most, so that slots of pictures of like size fit each other."""
    step = 1 << max(0, size.bit_length() - 5)
    return -(-size // step) * step


class Arena:
    """Slots in chunks, up to a budget. What is freed is handed out again to slots of its size.

    Args:
        budget: bytes of all slots and of the chunks they lie in.
        make_chunk: (number of the chunk, bytes) -> its bytes; raises OSError or MemoryError where there is no room.
        drop_chunk: is told the number of a chunk that is not used any more.
    """

    def __init__(
        self, budget: int, make_chunk: Callable[[int, int], Bytes], drop_chunk: Callable[[int], None] = lambda number: None
    ) -> None:
        self.budget, self._make_chunk, self._drop_chunk = budget, make_chunk, drop_chunk
        self.chunks: dict[int, Bytes] = {}
        self.used = 0
        """Bytes of the slots that are handed out."""
        self._made = 0  # chunks so far
        self._top = 0  # bytes of the newest chunk that were ever handed out
        self._in_use: dict[int, int] = {}  # slots of each chunk
        self._free: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by slot size: (chunk, offset)

    def allocate(self, size: int) -> tuple[int, int] | None:
        """(chunk, offset) of `size` bytes; None where they do not fit any more."""
        room = slot_bytes(size)
        slot = self._free[room].pop() if self._free[room] else self._from_top(room)
        if slot is not None:
            self.used += room
            self._in_use[slot[0]] += 1
        return slot

    def release(self, chunk: int, offset: int, size: int) -> None:
        """Take back a slot of `size` bytes; a chunk without slots goes, so that its bytes serve pictures of other sizes."""
        room = slot_bytes(size)
        self.used -= room
        self._in_use[chunk] -= 1
        if self._in_use[chunk]:
            self._free[room].append((chunk, offset))
            return
        del self.chunks[chunk], self._in_use[chunk]
        self._drop_chunk(chunk)
        self._free = defaultdict(list, {room: [slot for slot in slots if slot[0] != chunk] for room, slots in self._free.items()})

    def _from_top(self, room: int) -> tuple[int, int] | None:
        newest = self.chunks.get(self._made - 1)
        if newest is None or self._top + room > len(newest):
            left = self.budget - sum(map(len, self.chunks.values()))
            size = max(room, min(CHUNK, left))
            if size > left:
                return None
            try:
                self.chunks[self._made] = self._make_chunk(self._made, size)
            except (OSError, MemoryError):  # less is free than was asked for: what does not fit is decoded again
                self.budget -= left
                return None
            self._in_use[self._made] = self._top = 0
            self._made += 1
        self._top += room
        return self._made - 1, self._top - room


def in_memory(number: int, size: int) -> Bytes:
    """A chunk of this process's own memory, which costs nothing before it is written."""
    return np.empty(size, dtype=np.uint8)


def in_file(path: Path, size: int) -> Bytes:
    """A chunk that other processes can map. Raises OSError where the disk, or the memory behind it, is full."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a map would find out by a signal that kills the process
    return mapped(path)


def mapped(path: Path) -> Bytes:
    """The bytes of a file, in the memory that all processes share which map it."""
    return np.memmap(path, dtype=np.uint8, mode="r+").view(np.ndarray)
