"""All pictures of a stream, each once: what is looked at to find copies of a picture, whatever side and session they stand on.

Letters: n pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.contracts import ImageDataset, Session
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.pixel_digests import pixel_digests

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Catalog:
    """Pictures by number, 0 to n - 1."""

    sets: tuple[ImageSet, ...]
    """Their data sets: of each session training and validation images, and each test that no earlier session had."""
    parts: tuple[Part, ...]
    """What each set is for."""
    sessions: tuple[int, ...]
    """The session that brings each set."""
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.sets)])

    @cached_property
    def set_of(self) -> NDArray[np.int64]:
        """[n] which set each picture is in."""
        return np.repeat(np.arange(len(self.sets)), np.diff(self._starts))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """[n] position of the class in order of arrival."""
        return np.concatenate([images.labels for images in self.sets])

    @cached_property
    def session(self) -> NDArray[np.int64]:
        """[n]"""
        return np.array(self.sessions)[self.set_of]

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """[n] whether it is a test picture; the others are trained on, or held out of training."""
        return np.array([part == "test" for part in self.parts])[self.set_of]

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """[n, 2] as `pixel_digests`; 0 where nobody has decoded the picture."""
        return np.concatenate([pixel_digests(images) for images in self.sets])

    def place(self, number: int) -> tuple[ImageSet, int]:
        """The set of a picture, and its position there."""
        which = int(self.set_of[number])
        return self.sets[which], number - int(self._starts[which])

    def name(self, number: int) -> str:
        """File name, or split and row."""
        images, position = self.place(number)
        return images.describe(position)

    def part(self, number: int) -> Part:
        return self.parts[int(self.set_of[number])]


def catalog(sessions: Iterable[Session], class_names: Iterable[str]) -> Catalog:
    """The pictures of all sessions. Data sets of one's own, which do not say what their pictures are called, are passed over."""
    found: list[tuple[ImageSet, Part, int]] = []
    seen: set[tuple[int, str, int]] = set()  # (store, part, row): tests come again in every session
    for session in sessions:
        for part, data in _sets_of(session):
            if not isinstance(data, ImageSet):
                continue
            new = np.array([(id(data.store), part, row) not in seen for row in data.indices.tolist()], dtype=bool)
            if new.any():
                images = data if new.all() else data.subset(new)
                found.append((images, part, session.id))
                seen.update((id(images.store), part, row) for row in images.indices.tolist())
    if not found:
        return Catalog((), (), (), tuple(class_names))
    sets, parts, numbers = zip(*found, strict=True)
    return Catalog(sets, parts, numbers, tuple(class_names))


def _sets_of(session: Session) -> Iterator[tuple[Part, ImageDataset]]:
    yield "train", session.train
    if session.validation is not None:
        yield "validation", session.validation
    for test in session.tests:
        yield "test", test.data
