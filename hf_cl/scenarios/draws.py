"""Random parts of a data set: the test part where there is none, the validation part, the shots.

Each draw is a permutation of one class's images by a generator of its own, from (class_order_seed, purpose, class), so it depends on no
other class, and k shots are the first of k + 1. Test and validation parts know a class by its name: they stay as they are when classes are
added to a data set, and images that were trained on are not tested. Shots know it by its label.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import ImageSet

logger = logging.getLogger(__name__)

Purpose = Literal["test", "validation", "shots", "stream"]
_STREAMS: dict[Purpose, int] = {"test": 0, "validation": 1, "shots": 2, "stream": 3}
_TRACK = re.compile(r"(\d{5})_\d{5}\.\w+")


def permutation(count: int, purpose: Purpose, seed: int, class_key: int) -> NDArray[np.int64]:
    """A permutation of `range(count)`, the same for the same (purpose, seed, class_key)."""
    if seed < 0:
        raise ValueError(f"class_order_seed must be 0 or more, got {seed}.")
    return np.random.default_rng((seed, _STREAMS[purpose], class_key)).permutation(count)


def name_key(class_name: str) -> int:
    """A class by its name, for `permutation`: the first eight bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(class_name.encode()).digest()[:8])


def split_per_class(
    images: ImageSet,
    fraction: float,
    purpose: Purpose,
    seed: int,
    *,
    class_names: Sequence[str],
    tracks: NDArray[np.int64] | None = None,
) -> tuple[ImageSet, ImageSet]:
    """(rest, part): of each class `fraction` of its images, rounded, at least one; both in the order of `images`.

    With `tracks` (one number per image, [n]) the images of a class that share one stay together, and the part may grow beyond `fraction`
    by less than one track.

    Raises DataError for classes of which nothing would be left.
    """
    taken = np.zeros(len(images), dtype=bool)
    too_small = []
    for label in np.unique(images.labels):
        positions = images.positions_of(label)
        groups = np.unique(tracks[positions], return_inverse=True)[1] if tracks is not None else np.arange(len(positions))
        target = max(1, round(fraction * len(positions)))
        sizes = np.bincount(groups)
        order = permutation(len(sizes), purpose, seed, name_key(class_names[int(label)]))
        before = np.cumsum(sizes[order]) - sizes[order]
        chosen = order[before < target]
        if len(chosen) == len(sizes):
            too_small.append(f"{class_names[label]!r} ({len(positions)} images)")
        taken[positions[np.isin(groups, chosen)]] = True
    if too_small:
        unit = "images" if tracks is None else "tracks"
        raise DataError(
            f"{len(too_small)} classes have too few {unit} to part with {fraction:.0%} as {purpose} images: {first_ten(too_small)}."
        )
    return images.subset(~taken), images.subset(taken)


def draw_shots(images: ImageSet, shots: int, seed: int, labels: Iterable[int], class_names: Sequence[str]) -> ImageSet:
    """The first `shots` of a permutation of the images of each class in `labels`, class by class.

    Raises DataError for classes with fewer images than shots.
    """
    check_shots(shots)
    labels, counts = [int(label) for label in labels], images.counts(len(class_names))
    short = [f"{class_names[label]!r} has {counts[label]}" for label in labels if counts[label] < shots]
    if short:
        raise DataError(
            f"{len(short)} classes have fewer training images than the {shots} shots asked for: {first_ten(short)}. "
            f"The most that every class has: shots {min(counts[label] for label in labels)}."
        )
    chosen = []
    for label in labels:
        positions = images.positions_of(label)
        chosen.append(positions[permutation(len(positions), "shots", seed, label)[:shots]])
    return images.subset(np.concatenate(chosen))


def check_fraction(validation_fraction: float) -> None:
    """Raise ValueError for what is no share of the training images."""
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")


def check_shots(shots: int) -> None:
    """Raise ValueError for fewer than one shot."""
    if shots < 1:
        raise ValueError(f"shots is the number of training images per class; it must be at least 1, got {shots}.")


def tracks_of(images: ImageSet, data_set: str) -> NDArray[np.int64] | None:
    """Track of each image, [n], where the data set is GTSRB: frames of one track (`<track>_<frame>.ppm`) show the same sign. Else None."""
    if data_set != "gtsrb":
        return None
    names = images.file_names
    matches = [_TRACK.fullmatch(name.rsplit("/", 1)[-1]) for name in names] if names else []
    if not matches or not all(matches):
        logger.warning("gtsrb: the images have no file names <track>_<frame>, so near-duplicate frames may lie on both sides of a split.")
        return None
    return np.asarray([int(match[1]) for match in matches if match], dtype=np.int64)
