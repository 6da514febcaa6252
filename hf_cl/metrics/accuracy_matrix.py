"""The accuracy matrix R[t][j]: accuracy on the test images of session j after training session t, j <= t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hf_cl.metrics.confusions import confused_pairs, session_confusion
from hf_cl.metrics.predictions import SessionCounts

Matrix = Sequence[Sequence[float]]
"""Ragged rows: row t has the entries j = 0 ... t."""


@dataclass
class AccuracyMatrix:
    """Grows by one row per session. The fields carry the names of results.json, and are plain lists for checkpoints."""

    accuracy_matrix: list[list[float]] = field(default_factory=list)
    """argmax over all seen classes."""
    accuracy_matrix_task_aware: list[list[float]] = field(default_factory=list)
    """argmax over the classes of session j alone."""
    accuracy_matrix_within: list[list[float]] = field(default_factory=list)
    """Column 0: argmax over the base classes; columns j >= 1: over all novel classes seen so far."""
    class_accuracy_matrix: list[list[float | None]] = field(default_factory=list)
    """Row t: accuracy of every class seen so far, in order of arrival; None for a class without test images."""
    test_counts: list[int] = field(default_factory=list)
    """n_j, the number of test images of session j."""
    session_confusion: list[list[int]] = field(default_factory=list)
    """Of the latest evaluation; see `hf_cl.metrics.session_confusion`."""
    confused_pairs: list[list[int]] = field(default_factory=list)
    """Of the latest evaluation; see `hf_cl.metrics.confused_pairs`."""

    def add(self, counts: SessionCounts) -> None:
        """Append the row of the evaluation after the next session.

        Raises ValueError where the evaluation is not that of the next session, where a session has no test images, or where the number of
        test images of an earlier session has changed.
        """
        expected, totals = len(self.accuracy_matrix) + 1, counts.total.tolist()
        if len(totals) != expected:
            raise ValueError(f"Row {expected - 1} of the accuracy matrix needs {expected} tests, got {len(totals)}.")
        if 0 in totals:
            raise ValueError(f"Session {totals.index(0)} has no test images: its accuracy is not defined.")
        if totals[:-1] != self.test_counts:
            raise ValueError(f"The tests changed between sessions: {self.test_counts} images before, {totals[:-1]} now.")
        self.accuracy_matrix.append((counts.correct / counts.total).tolist())
        self.accuracy_matrix_task_aware.append((counts.correct_task_aware / counts.total).tolist())
        self.accuracy_matrix_within.append((counts.correct_within / counts.total).tolist())
        per_class = zip(counts.class_correct.tolist(), counts.class_total.tolist(), strict=True)
        self.class_accuracy_matrix.append([correct / total if total else None for correct, total in per_class])
        self.test_counts = totals
        self.session_confusion = session_confusion(counts.confusion, counts.classes_per_session)
        self.confused_pairs = confused_pairs(counts.confusion, counts.classes_per_session)

    def fields(self) -> dict[str, Any]:
        """A copy as plain lists: the keys of results.json, the arguments of `Results`, and `AccuracyMatrix(**fields)` is the inverse."""
        return asdict(self)


def check_matrix(name: str, matrix: Matrix, sessions: int) -> None:
    """Raises ValueError, naming the matrix and the row, unless row t has t + 1 values in [0, 1] and there are `sessions` rows."""
    if len(matrix) != sessions:
        raise ValueError(f"{name} has {len(matrix)} rows, expected {sessions} (one per session).")
    for t, row in enumerate(matrix):
        if len(row) != t + 1:
            raise ValueError(f"{name}[{t}] has {len(row)} values, expected {t + 1} (the tests of sessions 0 to {t}).")
        values = np.asarray(row, float)
        if not ((values >= 0) & (values <= 1)).all():  # NaN compares false
            raise ValueError(f"{name}[{t}] holds a value outside of 0 to 1: {list(row)}.")
