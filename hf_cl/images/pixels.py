"""The one store of a run's pixels: each picture is decoded once per machine while memory lasts.

Letters: n images of a data set.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_cl.contracts import ImageDataset, source_of
from hf_cl.images.arena import slot_bytes
from hf_cl.images.decode import EXACT, SHRUNK, Forms, Picture, in_threads, open_position
from hf_cl.images.host import Host
from hf_cl.images.slots import Slot, Slots

TASK_IMAGES, TASK_BYTES = 64, 16 << 20
"""What one thread takes at a time, and what it holds of it at full size: whichever is less."""


class PixelStore:
    """Decodes pictures and keeps their pixels for all data sets of a run.

    Kept are training pixels of the present session, tests of all sessions, and what was decoded on the way and may be wanted: when data
    are checked every picture is decoded, and `put` keeps what comes of it. Half of the budget is for training pixels alone. What does not
    fit is decoded whenever it is asked for, batches ahead in threads; nothing that is computed depends on what fits.

    Where several processes share a machine, each decodes its part of the training images and all map the pixels. `training` is then
    called by all of them, on the same data sets in the same order.

    Args:
        forms: what is made of a decoded picture.
        host: the processes of this machine.
        budget: bytes for pixels in memory, of all processes of the machine together.
        cache: a folder for training pixels that memory has no room for.
        workers: threads that decode.
    """

    def __init__(
        self, forms: Forms, *, host: Host | None = None, budget: int = 4 << 30, cache: Path | None = None, workers: int = 2
    ) -> None:
        self.forms, self.host, self.workers = forms, host or Host(), workers
        self._slots = Slots(self.host, budget // self.host.size, cache)
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}  # of sources, by id
        self._sources: dict[int, Any] = {}  # by number; held, or their ids would be given away again
        self._training: StoredImages | None = None
        self._tests: dict[int, set[int]] = defaultdict(set)  # rows of each source that are tested on
        self._plain: list[tuple[int, list[int]]] = []  # rows whose EXACT form somebody wanted in this session, apart from tests

    # What decodes
    def know(self, source: Any) -> None:
        """Give a source its number, on all processes in the same order, before `put` speaks of it."""
        self._number(source, shared=True)

    def put(self, source: Any, row: int, image: Image.Image) -> None:
        """Keep what a picture that was decoded anyway may be wanted for; called by several threads at once."""
        forms, made = self.forms, {}
        if forms.training == SHRUNK:
            made[SHRUNK] = forms.shrunk(image)
        if forms.training == EXACT or not forms.is_whole(image):
            (made[EXACT],) = forms.exact([image])
        with self._lock:
            number = self._number(source, shared=True)
            for form, pixels in made.items():
                self._keep_beside(form, number, row, pixels, forms.is_whole(image))

    def publish(self) -> None:
        """Let the other processes of the machine have what `put` kept."""
        self._slots.publish()

    def training(self, dataset: ImageDataset) -> StoredImages:
        """All images of `dataset` as the augmentation starts from them; those of the last such data set are let go."""
        if self._training is not None and self._training.dataset is dataset:
            return self._training
        slots, host = self._slots, self.host
        slots.publish()
        host.wait()  # nobody reads any more what is let go now
        slots.refresh()
        view = StoredImages(self, dataset, self.forms.training, self._number(source_of(dataset), shared=True))
        self._let_go(view)
        missing = view.missing(range(len(view)))
        self._training = view
        for positions, found in self._decoded(view, missing[host.rank :: host.size]):
            for position, (pixels, whole, exact) in zip(positions, found, strict=True):
                slots.keep(view.form, view.number, view.rows[position], pixels, whole, beside=False)
                if exact is not None:
                    self._keep_beside(EXACT, view.number, view.rows[position], exact, whole=False)
        slots.publish()
        host.wait()
        slots.refresh()
        return view

    def evaluation(self, dataset: ImageDataset, positions: Sequence[int], *, test: bool) -> StoredImages:
        """Images of `dataset` as evaluation sees them; those at `positions`, this process's share, are decoded and kept.

        Tests stay for the whole run, since they come again; of other data sets the pixels stay until the next session trains.
        """
        self._slots.refresh()
        view = StoredImages(self, dataset, EXACT, self._number(source_of(dataset), shared=False), trains=not test)
        if test:
            self._tests[view.number].update(view.rows)
        else:
            self._plain.append((view.number, view.rows))
        missing = view.missing(positions) if self._has_room() else []
        for part, found in self._decoded(view, missing):
            for position, (pixels, whole, shrunk) in zip(part, found, strict=True):
                self._keep_beside(EXACT, view.number, view.rows[position], pixels, whole=False)
                if shrunk is not None:
                    self._keep_beside(SHRUNK, view.number, view.rows[position], shrunk, whole)
            if not self._has_room():
                break
        self._slots.publish()
        return view

    def _decoded(self, view: StoredImages, positions: Sequence[int]) -> Iterator[tuple[Sequence[int], list[Made]]]:
        tasks = [positions[first : first + TASK_IMAGES] for first in range(0, len(positions), TASK_IMAGES)]
        yield from zip(tasks, in_threads(view.make, tasks, self.workers), strict=True)

    # What is kept
    @property
    def num_bytes(self) -> int:
        """Memory that this process's pixels take."""
        return self._slots.num_bytes

    def _has_room(self) -> bool:
        return self._slots.used_beside < self._slots.budget // 2

    def _keep_beside(self, form: int, number: int, row: int, pixels: Picture, whole: bool) -> None:
        """Keep what is no training pixel of the present session, in the half that is not theirs alone."""
        if self._slots.used_beside + slot_bytes(pixels.size) <= self._slots.budget // 2:
            self._slots.keep(form, number, row, pixels, whole, beside=True)

    def _let_go(self, coming: StoredImages) -> None:
        """Release the pixels of the last session's training images, unless the coming one trains on them again."""
        gone = list(self._plain)
        if self._training is not None:
            gone.append((self._training.number, self._training.rows))
        self._plain = []
        for number, rows in gone:
            needed = self._tests[number] | (set(coming.rows) if number == coming.number else set())
            for row in rows:
                for form in (EXACT, SHRUNK):
                    if row not in needed:
                        self._slots.release(form, number, row)
        self._slots.train_on(self.forms.training, coming.number, coming.rows)
        if self.host.alone:  # numbers that several processes agree on stay
            held = {coming.number, *self._tests, *self._slots.numbers()}
            for number in self._sources.keys() - held:
                del self._numbers[id(self._sources.pop(number))]

    def slot(self, form: int, number: int, row: int) -> Slot | None:
        """Where the pixels of a picture lie."""
        return self._slots.get(form, number, row)

    def pixels(self, slot: Slot) -> Picture:
        """Those of a slot, as a view of the store's memory."""
        return self._slots.pixels(slot)

    def _number(self, source: Any, *, shared: bool) -> int:
        """Numbers that count from 0 are the same on all processes; a source that perhaps not all of them know gets one below."""
        number = self._numbers.get(id(source))
        if number is None or (number < 0 and shared and not self.host.alone):
            shared = shared or self.host.alone
            known = [number for number in self._sources if (number >= 0) == shared]
            number = max(known, default=-1) + 1 if shared else min(known, default=0) - 1
            self._numbers[id(source)] = number
            self._sources[number] = source
        return number


Made = tuple[Picture, bool, Picture | None]
"""Pixels in the form that was asked for, whether the picture lost nothing in being shrunk, and its other form where it may be wanted."""


class StoredImages:
    """A data set's images in one form, its labels and its sample ids.

    Raises RuntimeError naming an image that cannot be read.
    """

    def __init__(self, store: PixelStore, dataset: ImageDataset, form: int, number: int, *, trains: bool = False) -> None:
        self.store, self.dataset, self.form, self.number = store, dataset, form, number
        self._also_shrunk = trains and store.forms.training == SHRUNK  # seen before it trains, it need not be decoded again
        self.labels = torch.as_tensor(np.asarray(dataset.labels, dtype=np.int64))  # [n]
        self.indices = torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))  # [n]
        self.rows: list[int] = self.indices.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_kept(self) -> int:
        """Images whose pixels are kept; the others are decoded on demand."""
        return len(self) - len(self.missing(range(len(self))))

    def missing(self, positions: Sequence[int]) -> list[int]:
        """Those of `positions` whose pixels are not kept."""
        return [position for position in positions if self.store.slot(self.form, self.number, self.rows[position]) is None]

    def images(self, positions: Sequence[int]) -> list[Picture]:
        """The images at `positions`, to be read before anything else is asked of the store."""
        return self._with(positions, self._decode(positions))

    def batches(self, plan: Sequence[Sequence[int]]) -> Iterator[list[Picture]]:
        """`images` of each list of positions; decoded ahead in threads where pixels are not kept."""
        if not self.missing(sorted({position for positions in plan for position in positions})):
            yield from map(self.images, plan)
            return
        for positions, decoded in zip(plan, in_threads(self._decode, plan, self.store.workers), strict=True):
            yield self._with(positions, decoded)

    def _decode(self, positions: Sequence[int]) -> dict[int, Picture]:
        missing = self.missing(positions)
        return {position: pixels for position, (pixels, _, _) in zip(missing, self.make(missing), strict=True)}

    def _with(self, positions: Sequence[int], decoded: dict[int, Picture]) -> list[Picture]:
        slots = [None if p in decoded else self.store.slot(self.form, self.number, self.rows[p]) for p in positions]
        let_go = [p for p, slot in zip(positions, slots, strict=True) if slot is None and p not in decoded]
        decoded |= self._decode(let_go) if let_go else {}
        return [decoded[p] if slot is None else self.store.pixels(slot) for p, slot in zip(positions, slots, strict=True)]

    def make(self, positions: Sequence[int]) -> list[Made]:
        """Decode images and make their form, a few at a time: their bytes at full size are counted."""
        made: list[Made] = []
        waiting: list[Image.Image] = []
        for position in positions:
            waiting.append(self._open(position))
            if self.form == SHRUNK or sum(3 * image.width * image.height for image in waiting) > TASK_BYTES:
                made += self._made(waiting)
                waiting = []
        return made + self._made(waiting)

    def _made(self, images: Sequence[Image.Image]) -> list[Made]:
        forms = self.store.forms
        if self.form == EXACT:
            shrunk = [forms.shrunk(image) if self._also_shrunk else None for image in images]
            return list(zip(forms.exact(images), map(forms.is_whole, images), shrunk, strict=True))
        return [
            (forms.shrunk(image), whole, None if whole else forms.exact([image])[0])
            for image, whole in zip(images, map(forms.is_whole, images), strict=True)
        ]

    def _open(self, position: int) -> Image.Image:
        slot = self.store.slot(SHRUNK, self.number, self.rows[position]) if self.form == EXACT else None
        if slot is not None and slot.whole:
            return Image.fromarray(self.store.pixels(slot))
        return open_position(self.dataset, position)
