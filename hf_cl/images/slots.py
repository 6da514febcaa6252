"""Where the pixels of each picture lie: in this process's memory, or in files that all processes of the machine map."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_cl.images.arena import Arena, Bytes, in_file, in_memory, mapped, slot_bytes
from hf_cl.images.decode import Picture
from hf_cl.images.host import PREFIX, Host

SPARED = 1 << 30
"""Bytes of a disk that are left free."""
MEMORY, DISK, OWN = 0, 1, 2
"""Arenas: in memory, on disk, and in memory that no other process maps."""
NO_LIMIT = 1 << 62


class Slot(NamedTuple):
    """[height, width, 3] bytes in a chunk of an arena."""

    owner: int
    """The process that made it."""
    arena: int
    chunk: int
    offset: int
    height: int
    width: int
    whole: bool
    """Whether the picture lost nothing in this form."""

    @property
    def size(self) -> int:
        return 3 * self.height * self.width


class Slots:
    """Slots by form, source and row.

    With several processes each writes into files of its own and lists its slots in another; `refresh` reads the lists of the others.
    Sources whose numbers are below 0 are this process's own: their slots are listed nowhere.

    Args:
        host: the processes of the machine.
        budget: bytes in memory of this process's slots.
        cache: a folder for what memory has no room for.
    """

    def __init__(self, host: Host, budget: int, cache: Path | None) -> None:
        self.host, self.budget = host, budget
        self.used_beside = 0
        """Bytes of this process's slots in memory that hold no training pixels of the present session."""
        self._cache = None if cache is None else _folder_in(cache, host)
        if self._cache is not None:
            self._finalizer = weakref.finalize(self, shutil.rmtree, self._cache, ignore_errors=True)
        self._arenas = {
            MEMORY: Arena(budget, self._memory_chunk, partial(self._drop, MEMORY)),
            DISK: Arena(0 if cache is None else NO_LIMIT, self._disk_chunk, partial(self._drop, DISK)),
            OWN: Arena(budget, in_memory),
        }
        self._slots: dict[tuple[int, int], dict[int, Slot]] = defaultdict(dict)  # (form, source) -> row -> slot
        self._beside: set[tuple[int, int, int]] = set()
        self._unlisted: list[tuple[int, ...]] = []
        self._read = [0] * host.size  # bytes of the others' lists
        self._maps: dict[tuple[int, int, int], Bytes] = {}  # the others' chunks
        self._in_map: Counter[tuple[int, int, int]] = Counter()

    @property
    def num_bytes(self) -> int:
        """In memory, of this process's slots."""
        return self._arenas[MEMORY].used + self._arenas[OWN].used

    def get(self, form: int, number: int, row: int) -> Slot | None:
        """Where the pixels of a picture lie; None where they are not kept."""
        return self._slots[form, number].get(row)

    def pixels(self, slot: Slot) -> Picture:
        """[height, width, 3], a view of the slot's bytes."""
        own = slot.owner == self.host.rank
        chunk = self._arenas[slot.arena].chunks[slot.chunk] if own else self._maps[slot.owner, slot.arena, slot.chunk]
        return chunk[slot.offset : slot.offset + slot.size].reshape(slot.height, slot.width, 3)

    def keep(self, form: int, number: int, row: int, pixels: Picture, whole: bool, *, beside: bool) -> None:
        """Copy pixels into a slot, unless there is one or no room.

        `beside`: they are no training pixels of the present session. Those that are may go to disk.
        """
        if row in self._slots[form, number]:
            return
        for arena in [MEMORY if self.host.alone or number >= 0 else OWN] + ([] if beside else [DISK]):
            found = self._arenas[arena].allocate(pixels.size)
            if found is not None:
                slot = Slot(self.host.rank, arena, found[0], found[1], pixels.shape[0], pixels.shape[1], whole)
                self.pixels(slot)[...] = pixels
                self._slots[form, number][row] = slot
                if not self.host.alone and number >= 0:
                    self._unlisted.append((form, number, row, *slot[1:]))
                if beside:
                    self._beside.add((form, number, row))
                    self.used_beside += slot_bytes(slot.size)
                return

    def release(self, form: int, number: int, row: int) -> None:
        """Forget a picture's pixels. What other processes made is released by all processes, or by none."""
        slot = self._slots[form, number].pop(row, None)
        if slot is None:
            return
        self._leave_beside(form, number, row, slot)
        if slot.owner == self.host.rank:
            self._arenas[slot.arena].release(slot.chunk, slot.offset, slot.size)
            return
        key = slot.owner, slot.arena, slot.chunk
        self._in_map[key] -= 1
        if not self._in_map[key]:
            del self._maps[key], self._in_map[key]

    def train_on(self, form: int, number: int, rows: Iterable[int]) -> None:
        """Pixels that were kept for later are training pixels from now on."""
        for row in rows:
            slot = self.get(form, number, row)
            if slot is not None:
                self._leave_beside(form, number, row, slot)

    def _leave_beside(self, form: int, number: int, row: int, slot: Slot) -> None:
        if (form, number, row) in self._beside:
            self._beside.remove((form, number, row))
            self.used_beside -= slot_bytes(slot.size)

    def numbers(self) -> set[int]:
        """Sources of which anything is kept."""
        return {number for (_, number), slots in self._slots.items() if slots}

    # Between processes
    def publish(self) -> None:
        """List the new slots for the others."""
        if self.host.folder is not None and self._unlisted:
            with (self.host.folder / f"slots-{self.host.rank}").open("ab") as file:
                file.write(np.array(self._unlisted, dtype=np.int64).tobytes())
            self._unlisted = []

    def refresh(self) -> None:
        """Learn of the slots that the others have listed since."""
        if self.host.folder is None:
            return
        fields = 2 + len(Slot._fields)
        for owner in set(range(self.host.size)) - {self.host.rank}:
            path = self.host.folder / f"slots-{owner}"
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read[owner])
                found = file.read()
            whole = len(found) // (8 * fields) * 8 * fields
            self._read[owner] += whole
            for form, number, row, *rest in np.frombuffer(found[:whole], dtype=np.int64).reshape(-1, fields).tolist():
                self._learn(form, number, row, Slot._make([owner, *rest[:-1], bool(rest[-1])]))

    def _learn(self, form: int, number: int, row: int, slot: Slot) -> None:
        if row in self._slots[form, number]:  # two processes decoded it before they heard of each other
            return
        key = slot.owner, slot.arena, slot.chunk
        if key not in self._maps:
            self._maps[key] = mapped(self._path(*key))
        self._in_map[key] += 1
        self._slots[form, number][row] = slot

    def _path(self, owner: int, arena: int, chunk: int) -> Path:
        folder = self.host.folder if arena == MEMORY else self._cache
        assert folder is not None
        return folder / f"chunk-{owner}-{arena}-{chunk}"

    def _drop(self, arena: int, chunk: int) -> None:
        """Its bytes are free when the others have let go of their maps, too."""
        if arena == DISK or not self.host.alone:
            self._path(self.host.rank, arena, chunk).unlink(missing_ok=True)

    def _memory_chunk(self, number: int, size: int) -> Bytes:
        return in_memory(number, size) if self.host.folder is None else in_file(self._path(self.host.rank, MEMORY, number), size)

    def _disk_chunk(self, number: int, size: int) -> Bytes:
        assert self._cache is not None
        if shutil.disk_usage(self._cache).free - size < SPARED:
            raise OSError("the disk is nearly full")
        path = self._path(self.host.rank, DISK, number)
        chunk = in_file(path, size)
        if self.host.alone:
            path.unlink()  # the bytes go with the map, however the process ends
        return chunk


def _folder_in(cache: Path, host: Host) -> Path:
    """A folder of this run alone below `cache`, the same for all processes of the machine."""
    cache.mkdir(parents=True, exist_ok=True)
    if host.folder is None:
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
    folder = cache / host.folder.name
    folder.mkdir(exist_ok=True)
    return folder
