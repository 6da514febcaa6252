"""From scores to counts: one set of scores gives plain, task-aware and within accuracy.

Shapes: B images, C classes seen so far, t session (from 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
COUNTS = ("total", "correct", "correct_task_aware", "correct_within", "class_total", "class_correct", "confusion")
"""The fields of `SessionCounts` that add up over batches and processes."""


def count_correct(scores: ArrayLike, labels: ArrayLike, candidates: ArrayLike | None = None) -> int:
    """How many images get their own class as the best-scored one among `candidates`.

    Args:
        scores: [B, C] logits or any scores where more is better; -inf where a class was not computed.
        labels: [B] column of the true class; each must be a candidate.
        candidates: columns that compete; all by default. Of equal scores the first column wins.

    Raises ValueError for NaN, for an image without a single computed candidate, and for labels that are no candidate.
    """
    scores, labels = _checked(scores, labels)
    columns = np.arange(scores.shape[1]) if candidates is None else np.asarray(candidates, np.int64)
    return int(_is_correct(scores, labels, columns).sum())


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], Integers]:
    scores, labels = np.asarray(scores), np.asarray(labels, np.int64)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"Scores must be [images, classes] and labels [images]; got {list(scores.shape)} and {list(labels.shape)}.")
    bad = np.isnan(scores).any(axis=1)
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {len(labels)} images have NaN scores, the first at position {int(bad.argmax())}.")
    return scores, labels


def _is_correct(scores: NDArray[np.floating], labels: Integers, columns: Integers) -> NDArray[np.bool_]:
    competing = scores[:, columns]  # [B, candidates]
    if not np.isin(labels, columns).all():
        stranger = int(labels[~np.isin(labels, columns)][0])
        raise ValueError(f"Label {stranger} is not among the {len(columns)} classes that compete.")
    if len(labels) and np.isneginf(competing.max(axis=1)).any():
        raise ValueError("An image has no computed score among the classes that compete; evaluation needs the scores of all seen classes.")
    return columns[competing.argmax(axis=1)] == labels if len(labels) else np.zeros(0, np.bool_)  # [B]


@dataclass
class SessionCounts:
    """Counts of one evaluation: after session t, on the tests of the sessions 0 ... t.

    Add batches one by one, and the counts of other processes with `+`: counts, unlike means of means, add up exactly.
    """

    classes_per_session: Sequence[int]
    """Number of new classes of each session so far; session j holds the columns after those of the sessions before it."""
    total: Integers = field(init=False)  # [t + 1]
    correct: Integers = field(init=False)  # [t + 1]
    correct_task_aware: Integers = field(init=False)  # [t + 1]
    correct_within: Integers = field(init=False)  # [t + 1]
    class_total: Integers = field(init=False)  # [C]
    class_correct: Integers = field(init=False)  # [C]
    confusion: Integers = field(init=False)  # [C, C], true x predicted among all seen classes

    def __post_init__(self) -> None:
        if not len(self.classes_per_session) or min(self.classes_per_session) < 1:
            raise ValueError(f"Every session needs at least one class; got {list(self.classes_per_session)} classes per session.")
        sessions, classes = len(self.classes_per_session), int(sum(self.classes_per_session))
        for name in ("total", "correct", "correct_task_aware", "correct_within"):
            setattr(self, name, np.zeros(sessions, np.int64))
        self.class_total, self.class_correct = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.confusion = np.zeros((classes, classes), np.int64)
        self._bounds = list(pairwise(np.cumsum([0, *self.classes_per_session]).tolist()))

    def add(self, test: int, scores: ArrayLike, labels: ArrayLike) -> None:
        """Count a batch of the test images of session `test`: scores [B, C] over all seen classes, labels [B] in order of arrival.

        Plain: the best of all seen classes. Task-aware: the best of the classes of session `test`. Within: for session 0 the best of
        the base classes, for later ones the best of all novel classes seen so far.

        Raises ValueError for scores over another number of classes, labels outside of the session's classes, and what `count_correct`
        refuses.
        """
        scores, labels = _checked(scores, labels)
        classes, (first, last) = len(self.class_total), self._bounds[test]
        if scores.shape[1] != classes:
            raise ValueError(
                f"{classes} classes were seen after session {len(self._bounds) - 1}, but the scores have {scores.shape[1]} columns."
            )
        own = np.arange(first, last)
        correct = _is_correct(scores, labels, np.arange(classes))  # [B]
        self.correct_task_aware[test] += _is_correct(scores, labels, own).sum()  # first: it refuses labels of other sessions
        self.correct_within[test] += _is_correct(scores, labels, own if test == 0 else np.arange(self._bounds[0][1], classes)).sum()
        self.correct[test] += correct.sum()
        self.total[test] += len(labels)
        self.class_total += np.bincount(labels, minlength=classes)
        self.class_correct += np.bincount(labels[correct], minlength=classes)
        np.add.at(self.confusion, (labels, scores.argmax(axis=1)), 1)

    def __add__(self, other: SessionCounts) -> SessionCounts:
        if list(self.classes_per_session) != list(other.classes_per_session):
            raise ValueError("Counts of different sessions cannot be added.")
        merged = SessionCounts(self.classes_per_session)
        for name in COUNTS:
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        return merged


def evaluate_predictions(scores: Sequence[ArrayLike], labels: Sequence[ArrayLike], classes_per_session: Sequence[int]) -> SessionCounts:
    """Counts of a whole evaluation after session t from one pass of scores.

    Args:
        scores: for each session j <= t the scores [n_j, C] of its test images over all seen classes.
        labels: for each session j <= t the true classes [n_j], positions in order of arrival.
        classes_per_session: new classes of each session 0 ... t.
    """
    counts = SessionCounts(classes_per_session)
    for test, (test_scores, test_labels) in enumerate(zip(scores, labels, strict=True)):
        counts.add(test, test_scores, test_labels)
    return counts
