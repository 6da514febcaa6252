"""What is taken for what, between sessions: whether errors lean towards the new classes or the old ones.

Counts are sparse, [k, 3]: true class, predicted class, images. A full table of 10,000 classes would take 800 MB.
Letters: C classes seen, T + 1 sessions, k pairs that occur.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PAIRS = 10
"""Pairs of classes kept in each direction: a record of 1,000 classes stays small."""


def count_pairs(true: NDArray[np.int64], predicted: NDArray[np.int64], images: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """[k, 3] each pair of `true` [n] and `predicted` [n] that occurs, in order, with the sum of its `images` [n]; all below `classes`."""
    keys, place = np.unique(true * classes + predicted, return_inverse=True)  # [k], [n]
    summed = np.zeros(len(keys), np.int64)
    np.add.at(summed, place, images)
    return np.stack([keys // classes, keys % classes, summed], axis=1)


def between_sessions(confusion: NDArray[np.int64], classes_per_session: Sequence[int]) -> NDArray[np.int64]:
    """[k, 3] session of the true class, session of the predicted one, images; from the same of classes."""
    session = session_of_class(classes_per_session)  # [C]
    return count_pairs(session[confusion[:, 0]], session[confusion[:, 1]], confusion[:, 2], len(classes_per_session))


def dense(pairs: NDArray[np.int64], size: int) -> list[list[int]]:
    """The full table [size, size] of sparse counts."""
    table = np.zeros((size, size), np.int64)
    table[pairs[:, 0], pairs[:, 1]] = pairs[:, 2]
    return table.tolist()


def session_confusion(confusion: NDArray[np.int64], classes_per_session: Sequence[int]) -> list[list[int]]:
    """Entry j, k: test images of classes of session j that were named as a class of session k.

    Where every session brings classes, the row sums are the test counts.

    Args:
        confusion: [k, 3] true class, predicted class (in order of arrival) and images.
        classes_per_session: new classes of each session.

    The diagonal holds right names and those of another class of the same session.
    """
    return dense(between_sessions(confusion, classes_per_session), len(classes_per_session))


def confused_pairs(confusion: NDArray[np.int64], classes_per_session: Sequence[int], most: int = PAIRS) -> list[list[int]]:
    """`[true class, predicted class, images]` for classes of different sessions, the most frequent first.

    At most `most` pairs where the true class came earlier than the predicted one, and as many where it came later.
    """
    session = session_of_class(classes_per_session)  # [C]
    true, predicted = session[confusion[:, 0]], session[confusion[:, 1]]  # [k]
    pairs = []
    for found in (confusion[true < predicted], confusion[true > predicted]):
        best = np.lexsort((found[:, 1], found[:, 0], -found[:, 2]))[:most]
        pairs += found[best].tolist()
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def session_of_class(classes_per_session: Sequence[int]) -> NDArray[np.int64]:
    """[C] the session that brought each class."""
    return np.repeat(np.arange(len(classes_per_session)), classes_per_session)


def check_confusions(
    between: Sequence[Sequence[int]], pairs: Sequence[Sequence[int]], test_counts: Sequence[int], session_of: Sequence[int]
) -> None:
    """Raises ValueError where a record does not fit the test images per session or the session of each class."""
    sums, brought = [sum(row) for row in between], set(session_of)
    whole = len(brought) == len(test_counts)
    if not whole and not between and len(brought) == 1:
        return
    fits = sums == list(test_counts) if whole else sum(sums) == sum(test_counts) and all(s == 0 or j in brought for j, s in enumerate(sums))
    if not fits or any(len(row) != len(test_counts) or min(row) < 0 for row in between):
        raise ValueError(f"session_confusion needs a row per session that sums to its test images {list(test_counts)}; got {sums}.")
    for pair in pairs:
        known = len(pair) == 3 and all(0 <= position < len(session_of) for position in pair[:2])
        if not known or session_of[pair[0]] == session_of[pair[1]] or pair[2] < 1:
            raise ValueError(f"confused_pairs: {list(pair)} is not [true class, predicted class, images] of classes of two sessions.")
