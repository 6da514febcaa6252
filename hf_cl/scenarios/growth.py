"""A collection that has changed since a run: its taught classes keep their places, its known pictures their side of the split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.content import content_hashes
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.stream import divided

Side = Literal["train", "test", "validation"]


class KnownPictures:
    """On which side the pictures stand that a run which goes on knows, and in which session: by content, and by name where copies stand on
    both sides.

    Args:
        pictures: (hash of the content, name, side, session) of each.
    """

    def __init__(self, pictures: Iterable[tuple[str, str, Side, int]]) -> None:
        self._sides: dict[str, dict[str, Side]] = {}
        self._sessions: dict[tuple[str, Side], int] = {}
        self._trained: list[tuple[str, str, int]] = []
        for content, name, side, session in pictures:
            names = self._sides.setdefault(content, {})
            if names.get(name) != "train":  # what was ever trained on is not tested
                names[name] = side
            first = self._sessions.get((content, side), session)
            self._sessions[content, side] = min(first, session)
            if side != "test":
                self._trained.append((content, name, session))

    def sides_of(self, images: ImageSet) -> list[Side | None]:
        """Of each image, [n]; None for a new one, and for a copy of pictures that stand on both sides."""
        return [self._side(content, images.describe(position)) for position, content in enumerate(content_hashes(images))]

    def sessions_of(self, images: ImageSet, side: Side) -> list[int | None]:
        """Of each image of a side, [n], the first session that had it there; None for one that was on no side, or on another."""
        return [self._sessions.get((content, side)) for content in content_hashes(images)]

    def trained(self, images: ImageSet, taught: int) -> list[int]:
        """Positions of the images that the first `taught` sessions took, to train on and for validation, in the order of their record."""
        places: dict[str, list[int]] = {}
        for position, content in enumerate(content_hashes(images)):
            places.setdefault(content, []).append(position)
        found = []
        for content, name, session in self._trained:
            if session < taught and (copies := places.get(content)):
                found.append(copies.pop(next((i for i, p in enumerate(copies) if images.describe(p) == name), 0)))
        return found

    def _side(self, content: str, name: str) -> Side | None:
        names = self._sides.get(content, {})
        if name in names:
            return names[name]
        sides = set(names.values())
        return sides.pop() if len(sides) == 1 else None


def grown_order(
    class_names: Sequence[str], order: NDArray[np.int64], taught: Sequence[Sequence[str]], classes_per_session: int
) -> tuple[NDArray[np.int64], list[int]]:
    """(labels in order of arrival, classes of each session): the taught sessions as they were, then the other classes in `order`.

    Args:
        class_names: of the data now, in label order.
        order: labels as the class order of today has them, [C].
        taught: class names of each session that has begun.
        classes_per_session: of the sessions that come.

    Raises DataError for a taught class that the data do not have any more.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    gone = [name for session in taught for name in session if name not in label_of]
    if gone:
        known = {name for session in taught for name in session}
        come = [name for name in class_names if name not in known]
        renamed = ""
        if come:
            renamed = (
                f" New here: {first_ten(come)}. A class that goes by another name now needs its old one here; `hf-cl classes RUN --rename "
                f"{gone[0]}={come[0]}` then writes the trained adapter with the new one."
            )
        lacking = ("1 class", "has") if len(gone) == 1 else (f"{len(gone)} classes", "have")
        raise DataError(
            f"{lacking[0]} that the run has taught {lacking[1]} no images now: {first_ten(gone)}. A taught class cannot be taken out; keep "
            f"a few of its test images, under its old name.{renamed}"
        )
    first = [label_of[name] for session in taught for name in session]
    rest = [int(label) for label in order if int(label) not in set(first)]
    sizes = [len(session) for session in taught]
    sizes += [len(rest[start : start + classes_per_session]) for start in range(0, len(rest), classes_per_session)]
    return np.asarray([*first, *rest], dtype=np.int64), sizes


def check_record(known: KnownPictures | None, taught: Sequence[Sequence[str]]) -> None:
    """Raise DataError where nobody can say which pictures are new."""
    if not taught:
        raise DataError("session_from new_pictures goes on with a run: the same command with --resume auto, once its sessions have ended.")
    if known is None:
        raise DataError("The run folder has no record of its pictures (pictures.jsonl), so nobody can say which are new.")


@dataclass(frozen=True)
class Arrivals:
    """In which session the pictures of a grown collection stand.

    A picture stands in the session that brought its class. In one without a new class stand those that it was taught or tested with; and
    where `again` is set, every picture of a taught class that no session has had stands in that one.
    """

    order: NDArray[np.int64]
    """[C] labels in order of arrival."""
    sizes: Sequence[int]
    """New classes of each session."""
    known: KnownPictures | None = None
    taught: int = 0
    """Sessions that the run which goes on has begun."""
    again: int | None = None

    def with_new_pictures(self, train: ImageSet) -> Arrivals:
        """With a session of the training pictures that are new in taught classes, behind those that the run has begun; the same where there
        are none."""
        if not self._is_new(train, "train").any():
            return self
        sizes = [*self.sizes[: self.taught], 0, *self.sizes[self.taught :]]
        return replace(self, sizes=sizes, again=self.taught)

    def by_session(self, images: ImageSet, side: Side) -> list[ImageSet]:
        """The images of each session, labelled by position in the order of arrival."""
        sessions = self._of_classes(images)  # [n]
        if self.known is not None and 0 in self.sizes:
            for i, session in enumerate(self.known.sessions_of(images, side)):
                if session is not None and sessions[i] < session < self.taught and not self.sizes[session]:
                    sessions[i] = session
        if self.again is not None:
            sessions[self._is_new(images, side)] = self.again
        images = images.relabel(np.argsort(self.order))
        return divided(images, sessions, len(self.sizes))

    def _of_classes(self, images: ImageSet) -> NDArray[np.int64]:
        """[n] the session that brought each image's class."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)[np.argsort(self.order)[images.labels]]

    def _is_new(self, images: ImageSet, side: Side) -> NDArray[np.bool_]:
        """[n] whether the image is of a taught class, and no session has had it on this side."""
        if self.known is None:
            return np.zeros(len(images), bool)
        found = self.known.sessions_of(images, side)
        had = np.asarray([session is not None and session < self.taught for session in found], bool)
        return (self._of_classes(images) < self.taught) & ~had


def keep_sides(
    images: ImageSet,
    drawn: NDArray[np.bool_],
    known: KnownPictures,
    part: Side,
    fraction: float,
    seed: int,
    tracks: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Which images go to a part, bool [n]: a known picture stays where it was, a new one of a known class goes by its own content.

    So adding a picture moves no other. A class without known pictures goes as `drawn` says, and no class loses the last picture of the
    part while it has a new one.

    Args:
        images: the images.
        drawn: what a new run would put there, [n].
        known: the pictures of the run that goes on.
        part: "test" or "validation".
        fraction: share of the new pictures that goes there.
        seed: of the split.
        tracks: images of a class with one number stay together, [n].
    """
    held, sides = drawn.copy(), known.sides_of(images)
    old = np.asarray([side is not None for side in sides], dtype=bool)
    if not old.any():
        return held
    contents = content_hashes(images)
    for label in np.unique(images.labels[old]).tolist():
        positions = images.positions_of(label).tolist()
        of_track = {} if tracks is None else {int(tracks[p]): sides[p] for p in positions if sides[p]}
        fresh: list[tuple[float, int]] = []
        for position in positions:
            track = None if tracks is None else int(tracks[position])
            side = sides[position] if sides[position] or track is None else of_track.get(track)
            if side is None:
                fresh.append((_draw(contents[position] if track is None else f"track {track}", part, seed), position))
            held[position] = side == part if side is not None else fresh[-1][0] < fraction
        if fresh and not held[positions].any():
            held[min(fresh)[1]] = True
    return held


def _draw(content: str, part: Side, seed: int) -> float:
    """In 0..1, a function of the picture, the part and the seed alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {part} {content}".encode(), digest_size=6).digest()) / (1 << 48)
