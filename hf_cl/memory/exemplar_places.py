"""What is known of an image that is kept, and where it stands in the data of today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from hf_cl.contracts import Session


@runtime_checkable
class Recognisable(Protocol):
    """A data set whose pictures can be known again, wherever they stand in it."""

    def describe(self, position: int) -> str: ...
    def content_hash(self, position: int) -> str: ...


@dataclass(frozen=True)
class Exemplar:
    """One image that is kept."""

    number: int
    """In the order in which they were chosen; none is given twice."""
    session: int
    label: int
    index: int
    """Its sample id in the session's training images when it was chosen."""
    name: str
    """How a message names it."""
    content: str
    """Hash of its bytes; empty where the data set has none."""


class Finder:
    """Where exemplars stand in the data of today."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = sessions
        self._rows: dict[int, dict[int, int]] = {}  # session -> sample id -> position
        self._contents: dict[tuple[int, int], dict[str, int]] = {}  # session, label -> hash -> position

    def position(self, exemplar: Exemplar) -> int | None:
        """In the session's training images, by its sample id, or by its content where another picture has the id now."""
        images, label = self.sessions[exemplar.session].train, exemplar.label
        if exemplar.session not in self._rows:
            self._rows[exemplar.session] = {int(index): position for position, index in enumerate(images.indices)}
        place = self._rows[exemplar.session].get(exemplar.index)
        if place is not None and int(images.labels[place]) != label:
            place = None
        if not exemplar.content or not isinstance(images, Recognisable):
            return place
        if place is not None and images.content_hash(place) == exemplar.content:
            return place
        key = (exemplar.session, label)
        if key not in self._contents:
            mine = np.flatnonzero(np.asarray(images.labels) == label).tolist()
            self._contents[key] = {images.content_hash(position): position for position in mine}
        return self._contents[key].get(exemplar.content)
