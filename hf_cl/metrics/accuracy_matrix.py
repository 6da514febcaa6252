"""The accuracy matrix R[t][j]: accuracy on the test images of session j after training session t, j <= t.

A session without a new class may have no test images of its own: its column has no values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cl.metrics.accuracies import Matrix
from hf_cl.metrics.confusions import between_sessions, confused_pairs, dense
from hf_cl.metrics.predictions import SessionCounts
from hf_cl.metrics.running import RunningClasses, RunningMatrix, RunningTaskAware, RunningWithin

Rows = list[NDArray[np.float64]]


class AccuracyMatrix:
    """Grows by one row per session; `fields` gives it under the names of results.json, `metrics` what follows from it so far.

    A session costs its own row: rows are arrays, metrics are kept running, and confusions stay sparse until they are asked for.
    """

    def __init__(self) -> None:
        self._plain: Rows = []
        self._task_aware: Rows = []
        self._within: Rows = []
        self._classes: Rows = []
        self._test_counts: list[NDArray[np.int64]] = []  # row t: [t + 1]
        self._counts_changed = False
        self._between = np.empty((0, 3), np.int64)  # of the latest evaluation
        self._pairs: list[list[int]] = []
        self._running = RunningMatrix(), RunningTaskAware(), RunningWithin()
        self._running_classes = RunningClasses()

    def __len__(self) -> int:
        return len(self._plain)

    def add(self, counts: SessionCounts, *, started_from: bool = False) -> None:
        """Append the row of the evaluation after the next session.

        The number of test images of an earlier session may have changed: a collection loses and gains pictures.

        Args:
            counts: of the evaluation.
            started_from: whether the run started from an adapter, so that session 0 may have no test images.

        Raises ValueError where the evaluation is not that of the next session, and where one that brought classes has no test images.
        """
        expected, totals = len(self) + 1, counts.total
        if len(totals) != expected:
            raise ValueError(f"Row {expected - 1} of the accuracy matrix needs {expected} tests, got {len(totals)}.")
        empty = (totals == 0) & (np.asarray(counts.classes_per_session) > 0) & (np.arange(expected) >= int(started_from))
        if empty.any():
            raise ValueError(f"Session {int(empty.argmax())} has no test images: its accuracy is not defined.")
        self._counts_changed |= bool(self._test_counts) and not np.array_equal(totals[:-1], self._test_counts[-1])
        self._test_counts.append(totals.copy())
        with np.errstate(invalid="ignore"):  # NaN: no test images
            rows = counts.correct / totals, counts.correct_task_aware / totals, counts.correct_within / totals
            classes = counts.class_correct / counts.class_total
        for kept, row, running in zip((self._plain, self._task_aware, self._within), rows, self._running, strict=True):
            kept.append(row)
            running.add(row, totals)
        self._classes.append(classes)
        self._running_classes.add(self._classes[-1])
        self._between = between_sessions(counts.confusion, counts.classes_per_session)
        self._pairs = confused_pairs(counts.confusion, counts.classes_per_session)

    def metrics(self) -> dict[str, float | Sequence[float | None] | None]:
        """What `hf_cl.metrics.summarize` computes of these fields, kept up to date; after at least one session."""
        found = [running.metrics() for running in (*self._running, self._running_classes)]
        return {name: value for metrics in found for name, value in metrics.items()}

    def confusions(self) -> dict[str, Any]:
        """Of the latest evaluation: `between` [k, 3], sessions and images, and `pairs` as in results.json. For checkpoints."""
        return {"between": self._between, "pairs": self._pairs}

    def restore_confusions(self, state: Mapping[str, Any]) -> None:
        """Inverse of `confusions`, once the rows have been added again."""
        self._between, self._pairs = state["between"], state["pairs"]

    def fields(self) -> dict[str, Any]:
        """A copy as plain lists: the keys of results.json, the arguments of `Results`.

        `accuracy_matrix`: argmax over all seen classes. `accuracy_matrix_task_aware`: over the test's own classes alone.
        `accuracy_matrix_within`: images of base classes over those, others over all novel classes seen so far.
        `class_accuracy_matrix`: row t has every class seen so far, in order of arrival; None for a class without test images.
        `test_counts`: n_j of the latest evaluation; `test_counts_then`: of every one, where they changed.
        `session_confusion`, `confused_pairs`: of the latest evaluation, see `hf_cl.metrics.confusions`.
        """
        return {
            "accuracy_matrix": _listed(self._plain),
            "accuracy_matrix_task_aware": _listed(self._task_aware),
            "accuracy_matrix_within": _listed(self._within),
            "class_accuracy_matrix": _listed(self._classes),
            "test_counts": self._test_counts[-1].tolist() if self._test_counts else [],
            "test_counts_then": [row.tolist() for row in self._test_counts] if self._counts_changed else None,
            "session_confusion": [] if self._one_session_of_many() else dense(self._between, len(self)),
            "confused_pairs": [list(pair) for pair in self._pairs],
        }

    def _one_session_of_many(self) -> bool:
        """Whether one session brought all classes, so that nothing can be confused between sessions."""
        return len(self) > 1 and len(self._classes[0]) == len(self._classes[-1])


def _listed(rows: Rows) -> list[list[float | None]]:
    """None for NaN."""
    return [[None if isnan(v) else v for v in row.tolist()] if np.isnan(row).any() else row.tolist() for row in rows]


def check_matrix(name: str, matrix: Matrix, sessions: int, untested: Collection[int] = ()) -> None:
    """Raises ValueError, naming the matrix and the row, unless row t has t + 1 values in [0, 1] and there are `sessions` rows.

    Of the sessions `untested` an entry may be None: those without a new class, and what a run started from.
    """
    if len(matrix) != sessions:
        raise ValueError(f"{name} has {len(matrix)} rows, expected {sessions} (one per session).")
    for t, row in enumerate(matrix):
        if len(row) != t + 1:
            raise ValueError(f"{name}[{t}] has {len(row)} values, expected {t + 1} (the tests of sessions 0 to {t}).")
        if missing := [j for j, value in enumerate(row) if value is None and j not in untested]:
            raise ValueError(f"{name}[{t}][{missing[0]}] is empty; only a session without a new class may have no test images.")
        values = np.asarray([value for value in row if value is not None], float)
        if not ((values >= 0) & (values <= 1)).all():  # NaN compares false
            raise ValueError(f"{name}[{t}] holds a value outside of 0 to 1: {list(row)}.")
