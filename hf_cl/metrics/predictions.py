"""From scores to counts: one set of scores gives plain, task-aware and within accuracy.

Shapes: B images, C classes seen so far, t session (from 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_cl.metrics.confusions import count_pairs

Integers = NDArray[np.int64]
COUNTS = ("total", "correct", "correct_task_aware", "correct_within", "class_total", "class_correct")
"""The arrays of `SessionCounts` that add up over batches and processes; its `confusion` is sparse and merges."""
_NOT_COMPUTED = "An image has no computed score among the classes that compete; evaluation needs the scores of all seen classes."


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
        raise ValueError(_NOT_COMPUTED)
    return columns[competing.argmax(axis=1)] == labels if len(labels) else np.zeros(0, np.bool_)  # [B]


class SessionCounts:
    """Counts of one evaluation: after session t, on the tests of the sessions 0 ... t.

    Add batches one by one, and the counts of other processes with `+`: counts, unlike means of means, add up exactly.

    Args:
        classes_per_session: new classes of each session so far; session j holds the columns after those of the sessions before it.
        own: of each test the columns among which task-aware accuracy chooses; None or (): those that its session brought, or where it
            brought none, all up to it.

    Attributes: `total`, `correct`, `correct_task_aware`, `correct_within` [t + 1], `class_total`, `class_correct` [C], all int64.
    """

    def __init__(self, classes_per_session: Sequence[int], own: Sequence[Sequence[int]] | None = None) -> None:
        if not len(classes_per_session) or classes_per_session[0] < 1 or min(classes_per_session) < 0:
            raise ValueError(f"Session 0 needs at least one class, no later one fewer than none; got {list(classes_per_session)}.")
        self.classes_per_session = list(classes_per_session)
        self._bounds = np.cumsum([0, *classes_per_session])  # [t + 2]
        sessions, classes = len(classes_per_session), int(self._bounds[-1])
        self._last = self._bounds[1:]  # [t + 1] of the columns of each test, from `_first` on
        self._first = np.where(np.diff(self._bounds) > 0, self._bounds[:-1], 0)  # [t + 1]
        self._chosen = {j: np.asarray(columns, np.int64) for j, columns in enumerate(own or ()) if len(columns)}
        self.total, self.correct = np.zeros(sessions, np.int64), np.zeros(sessions, np.int64)
        self.correct_task_aware, self.correct_within = np.zeros(sessions, np.int64), np.zeros(sessions, np.int64)
        self.class_total, self.class_correct = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self._confusion = np.empty((0, 3), np.int64)
        self._new_pairs: list[Integers] = []

    @property
    def confusion(self) -> Integers:
        """[k, 3] true class, predicted class among all seen ones, images: the pairs that occur, in order."""
        if self._new_pairs:
            pairs = np.concatenate([self._confusion, *self._new_pairs])
            self._confusion, self._new_pairs = count_pairs(pairs[:, 0], pairs[:, 1], pairs[:, 2], len(self.class_total)), []
        return self._confusion

    def add(self, test: int | Integers, scores: ArrayLike, labels: ArrayLike) -> None:
        """Count a batch of test images: scores [B, C] over all seen classes, labels [B] in order of arrival.

        `test` is the session whose test images they are, or [B], that of each image.

        Plain: the best of all seen classes. Task-aware: the best of the test's own classes. Within: for images of base classes the best of
        those, for others the best of all novel classes seen so far. Of equal scores the first column wins.

        Raises ValueError for scores over another number of classes, labels outside of the test's own classes, and what `count_correct`
        refuses.
        """
        scores, labels = _checked(scores, labels)
        tests = np.broadcast_to(np.asarray(test, np.int64), labels.shape)  # [B]
        classes, bounds = len(self.class_total), self._bounds
        if scores.shape[1] != classes:
            raise ValueError(f"{classes} classes were seen after session {len(bounds) - 2}, but the scores have {scores.shape[1]} columns.")
        first, last = self._first[tests], self._last[tests]  # [B]
        predicted = _best(scores, np.zeros_like(first), np.full_like(last, classes))  # [B]
        task_aware = self._task_aware(tests, scores, labels, first, last)
        base = labels < bounds[1]
        within = _best(scores, np.where(base, 0, bounds[1]), np.where(base, bounds[1], classes)) == labels
        correct = predicted == labels
        for name, right in (("correct", correct), ("correct_task_aware", task_aware), ("correct_within", within)):
            np.add.at(getattr(self, name), tests, right)
        np.add.at(self.total, tests, 1)
        np.add.at(self.class_total, labels, 1)
        np.add.at(self.class_correct, labels, correct)
        self._new_pairs.append(count_pairs(labels, predicted, np.ones_like(labels), classes))

    def _task_aware(
        self, tests: Integers, scores: NDArray[np.floating], labels: Integers, first: Integers, last: Integers
    ) -> NDArray[np.bool_]:
        """[B] whether the label is the best of the columns of its test."""
        right = np.zeros(len(labels), bool)
        listed = np.isin(tests, list(self._chosen)) if self._chosen else right
        for test in np.unique(tests[listed]).tolist():
            right[tests == test] = _is_correct(scores[tests == test], labels[tests == test], self._chosen[test])
        ranged = ~listed
        strange = ranged & ((labels < first) | (labels >= last))
        if strange.any():
            raise ValueError(f"Label {int(labels[strange][0])} is not among the {int((last - first)[strange][0])} classes that compete.")
        right[ranged] = _best(scores[ranged], first[ranged], last[ranged]) == labels[ranged]
        return right

    def add_pairs(self, pairs: Integers) -> None:
        """Pairs [k, 3] of another process, as its `confusion` has them."""
        self._new_pairs.append(pairs)

    def __add__(self, other: SessionCounts) -> SessionCounts:
        if self.classes_per_session != other.classes_per_session:
            raise ValueError("Counts of different sessions cannot be added.")
        merged = SessionCounts(self.classes_per_session)
        for name in COUNTS:
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        merged.add_pairs(self.confusion)
        merged.add_pairs(other.confusion)
        return merged

    def record(self) -> dict[str, list[int]]:
        """The counts but for the confusion, as plain lists."""
        return {name: getattr(self, name).tolist() for name in COUNTS}

    @classmethod
    def from_record(cls, classes_per_session: Sequence[int], record: Mapping[str, Sequence[int]]) -> SessionCounts:
        """Inverse of `record`."""
        counts = cls(classes_per_session)
        for name in COUNTS:
            setattr(counts, name, np.asarray(record[name], np.int64))
        return counts


def _best(scores: NDArray[np.floating], first: Integers, last: Integers) -> Integers:
    """[B] the best-scored column of each row from `first` [B] up to `last` [B].

    Raises ValueError where none of them was computed.
    """
    if not len(scores):
        return np.zeros(0, np.int64)
    if (first == first[0]).all() and (last == last[0]).all():
        competing, offset = scores[:, first[0] : last[0]], int(first[0])
    else:
        columns = np.arange(scores.shape[1])
        competing, offset = np.where((columns >= first[:, None]) & (columns < last[:, None]), scores, -np.inf), 0  # [B, C]
    if np.isneginf(competing.max(axis=1)).any():
        raise ValueError(_NOT_COMPUTED)
    return competing.argmax(axis=1) + offset


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
