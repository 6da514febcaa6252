"""Accuracies over sessions and their averages. R is the accuracy matrix, n the test counts; both are ragged in t, see `Matrix`.

Papers differ in what they call "accuracy": `final_accuracy` is A_N of CODA-Prompt and OVOR, `average_incremental_accuracy` is the A-bar
of PyCIL and PILOT. They weight by sample (PILOT, FSCIL tables) or by session (CODA-Prompt, OVOR: `_unweighted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = Sequence[Sequence[float | None]]
"""Ragged rows: row t has the entries j = 0 ... t; None where session j has no test images: one without a new class, or what a run started
from."""
Numbers = Sequence[float | None] | NDArray[np.float64]
"""None and NaN: no value."""


def weighted_mean(values: Numbers, counts: Sequence[float] | NDArray[Any]) -> float | None:
    """sum n_j v_j / sum n_j over those that have a value; None where none has."""
    numbers, weights = np.asarray(values, float), np.asarray(counts)
    if (missing := np.isnan(numbers)).any():
        numbers, weights = numbers[~missing], weights[~missing]
    return float(np.average(numbers, weights=weights)) if len(numbers) else None


def mean(values: Numbers) -> float | None:
    """Of those that have a value; None where none has."""
    numbers = np.asarray(values, float)
    if (missing := np.isnan(numbers)).any():
        numbers = numbers[~missing]
    return float(np.mean(numbers)) if len(numbers) else None


def session_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
    """A_t = sum_{j<=t} n_j R[t][j] / sum_{j<=t} n_j: top-1 accuracy on all classes seen after session t."""
    return [weighted_mean(row, counts[: len(row)]) for row in matrix]


def session_accuracy_unweighted(matrix: Matrix) -> list[float | None]:
    """U_t = mean over j <= t of R[t][j]: every session counts the same, whatever its size."""
    return [mean(row) for row in matrix]


def pooled_accuracy(matrix: Matrix, counts: Sequence[int]) -> float | None:
    """All predictions of all evaluations in one pool: sum_{t, j<=t} n_j R[t][j] / sum_{t, j<=t} n_j ("AvgAcc" of CPE-CLIP's code)."""
    values = [value for row in matrix for value in row]
    return weighted_mean(values, [count for row in matrix for count in counts[: len(row)]])


def class_mean_accuracy(class_matrix: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the seen classes of the accuracy per class; classes without test images (None) are left out."""
    return [mean(row) for row in class_matrix]


def new_session_accuracy(matrix: Matrix) -> list[float | None]:
    """R[t][t] (PILOT's "new")."""
    return [row[-1] for row in matrix]


def old_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
    """Sample-weighted R[t][j] over j < t (PILOT's "old"); None for t = 0."""
    return [weighted_mean(row[:-1], counts[: len(row) - 1]) for row in matrix]


def anytime_accuracy(accuracies: Sequence[float | None]) -> float | None:
    """A_AUC of online streams (Koh et al. 2022, arXiv 2110.10031): mean over evaluations of the accuracy on the classes exposed so far."""
    return mean(accuracies)
