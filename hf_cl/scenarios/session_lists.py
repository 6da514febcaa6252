"""`session_1.txt` ... `session_K.txt`: the standard few-shot splits, or others of that form."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.index_list import ImageFinder, Line, OnceOnly, digest, list_folder, read_list
from hf_cl.scenarios.sources import ImageSource

logger = logging.getLogger(__name__)

STANDARD_LISTS = {
    "cifar100": (
        "855b0b91d039b6231808d5b6996396c3db3f3bf653ff962c8d63723e7fb40a47",
        "1333de0841a0087ef7e88f4be5305331be2c54fcc565077474a629a5e88640c9",
    ),
    "mini_imagenet": (
        "9fbb1b741dc1efa399df23abd430be1cffe28271dd9b88f24d476c5915f56d70",
        "327b5c6e030c733e479d58e22da4ea872293cb824654b53f60f1f44f9ad2ba0f",
    ),
    "cub200": (
        "b357013347063690d9a56bcc901c757249629f6541dc8dab9ed3b8d470b25e8e",
        "5f21c503993a008496b3dfe05c572ae74e525b8f7f5843d112ca30232ab08dbd",
    ),
}
"""Data set -> (`digest` of sessions 1..K, `digest` of sessions 2..K) of the lists of TOPIC (Tao et al. 2020) as CEC's repository keeps them
(icoz69/CEC-CVPR2021, commit 3a5d335)."""


@dataclass(frozen=True)
class SessionLists:
    """Checked lists: the training images of each session, and what order of classes they make."""

    train: list[ImageSet]
    order: NDArray[np.int64]
    """Labels in order of arrival, [C]."""
    identity: Mapping[str, str | None]
    """kind, "standard" or "custom", and sha256: `index_list` of results.json."""


def read_session_lists(source: ImageSource, index_list: str | os.PathLike[str], sizes: Sequence[int], shots: int) -> SessionLists:
    """The lists of `index_list`, or of its subfolder named after the data set, looked up among the training images.

    Lines are rows of the training split or file names. Within a session the classes keep label order.

    Args:
        source: the images.
        index_list: the folder.
        sizes: classes of each session.
        shots: images per class of every session but the first.

    Raises DataError, with file and line where there is one: not as many files as sessions; an image that is not there or is listed twice; a
    class in two sessions; a session with another number of classes, or a later one with another number of images of a class.
    """
    folder = list_folder(index_list, source.short_name, "session_1.txt")
    lists = _read_all(folder, len(sizes), len(source.class_names))
    finder, once = ImageFinder(source.train, "training images"), OnceOnly()
    session_of: dict[int, Line] = {}
    train, order = [], []
    for t, lines in enumerate(lists):
        positions = [finder.find(line) for line in lines]
        for position, line in zip(positions, lines, strict=True):
            once.add(position, line)
            label = int(source.train.labels[position])
            first = session_of.setdefault(label, line)
            if first.file != line.file:
                raise DataError(f"{line}: class {source.class_names[label]!r} is in two sessions; {first} has it too.")
        images = source.train.subset(positions)
        labels = np.unique(images.labels)
        _check_session(lines[0].file, images, sizes[t], shots if t > 0 else None, source.class_names)
        train.append(images)
        order.append(labels)
    complete = _base_is_complete(lists[0][0].file, source.train, train[0], order[0])
    return SessionLists(train, np.concatenate(order), identify(lists, complete))


def identify(lists: Sequence[Sequence[Line]], base_is_complete: bool) -> dict[str, str]:
    """kind and sha256 of lists. Standard are also lists whose first file has another order but names all images of the base classes."""
    whole, later = digest(lists), digest(lists[1:])
    standard = any(whole == known or (later == known_later and base_is_complete) for known, known_later in STANDARD_LISTS.values())
    return {"kind": "standard" if standard else "custom", "sha256": whole}


def _read_all(folder: Path, num_sessions: int, num_classes: int) -> list[list[Line]]:
    files = [folder / f"session_{k}.txt" for k in range(1, num_sessions + 1)]
    found = {file.name for file in folder.glob("session_*.txt")}
    if found != {file.name for file in files}:
        raise DataError(
            f"{folder} holds {len(found)} session files; {num_classes} classes in these sizes are {num_sessions} sessions, "
            f"session_1.txt ... session_{num_sessions}.txt. Is it the right data set, num_base_classes and classes_per_session?"
        )
    return [read_list(file) for file in files]


def _check_session(file: Path, images: ImageSet, size: int, shots: int | None, class_names: Sequence[str]) -> None:
    counts = Counter(images.labels.tolist())
    if len(counts) != size:
        raise DataError(
            f"{file} holds images of {len(counts)} classes, the session has {size}. "
            "If the lists are right, the rows of this data set are not in the order the lists were made for."
        )
    wrong = [f"{count} of {class_names[label]!r}" for label, count in sorted(counts.items()) if shots not in (None, count)]
    if wrong:
        raise DataError(f"{file} should hold {shots} images of each of its {size} classes; it holds {first_ten(wrong)}.")


def _base_is_complete(file: Path, all_train: ImageSet, base: ImageSet, labels: NDArray[np.int64]) -> bool:
    available = len(all_train.of_classes(labels))
    if len(base) < available:
        logger.warning("%s lists %d of the %d training images of its classes.", file, len(base), available)
    return len(base) == available
