"""A collection that has grown since a run: its taught classes keep their places, its known pictures their side of the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import ImageSet


def grown_order(
    class_names: Sequence[str], order: NDArray[np.int64], taught: Sequence[Sequence[str]], classes_per_session: int
) -> tuple[NDArray[np.int64], list[int]]:
    """(labels in order of arrival, classes of each session): the taught sessions as they were, then the other classes in `order`.

    Args:
        class_names: of the data now, in label order.
        order: labels as the class order of today has them, [C].
        taught: class names of each session that has ended.
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
    images: ImageSet, drawn: NDArray[np.bool_], contents: Sequence[str], known: Mapping[str, bool], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which images are held out, bool [n]: a known picture stays where it was, a new one of a known class goes by its own content.

    So adding a picture moves no other. A class without known pictures is held out as `drawn` says, [n].

    Args:
        images: the images.
        drawn: what a new run would hold out.
        contents: hash of each, [n].
        known: content -> whether it was held out.
        fraction: share of the new pictures that is held out.
        seed: of the split.
    """
    held = drawn.copy()
    old = np.asarray([content in known for content in contents], dtype=bool)
    for label in np.unique(images.labels[old]):
        for position in images.positions_of(int(label)).tolist():
            content = contents[position]
            held[position] = known[content] if content in known else _draw(content, seed) < fraction
    return held


def _draw(content: str, seed: int) -> float:
    """In 0..1, a function of the picture and the seed alone."""
    return (int(content[:12], 16) ^ (seed * 0x9E3779B97F4A & (1 << 48) - 1)) / (1 << 48)
