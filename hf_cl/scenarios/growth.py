"""A collection that has changed since a run: its taught classes keep their places, its known pictures their side of the split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.content import content_hashes
from hf_cl.scenarios.image_set import ImageSet

Side = Literal["train", "test", "validation"]


class KnownPictures:
    """On which side the pictures stand that a run which goes on knows: by content, and by name where copies stand on both sides.

    Args:
        pictures: (hash of the content, name, side) of each.
    """

    def __init__(self, pictures: Iterable[tuple[str, str, Side]]) -> None:
        self._sides: dict[str, dict[str, Side]] = {}
        for content, name, side in pictures:
            names = self._sides.setdefault(content, {})
            if names.get(name) != "train":  # what was ever trained on is not tested
                names[name] = side

    def sides_of(self, images: ImageSet) -> list[Side | None]:
        """Of each image, [n]; None for a new one, and for a copy of pictures that stand on both sides."""
        return [self._side(content, images.describe(position)) for position, content in enumerate(content_hashes(images))]

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
        raise DataError(
            f"{len(gone)} classes that the run has taught have no images now: {first_ten(gone)}. A taught class cannot be taken out; keep "
            "a few of its test images, under its old name."
        )
    first = [label_of[name] for session in taught for name in session]
    rest = [int(label) for label in order if int(label) not in set(first)]
    sizes = [len(session) for session in taught]
    sizes += [len(rest[start : start + classes_per_session]) for start in range(0, len(rest), classes_per_session)]
    return np.asarray([*first, *rest], dtype=np.int64), sizes


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
