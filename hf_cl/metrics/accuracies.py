"""Accuracies over sessions and their averages. R is the accuracy matrix, n the test counts; both are ragged in t, see `Matrix`.

Papers differ in what they call "accuracy": `final_accuracy` is A_N of CODA-Prompt and OVOR, `average_incremental_accuracy` is the A-bar
of PyCIL and PILOT. They weight by sample (PILOT, FSCIL tables) or by session (CODA-Prompt, OVOR: `_unweighted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = Sequence[Sequence[float]]
"""Ragged rows: row t has the entries j = 0 ... t."""
Numbers = Sequence[float] | NDArray[np.float64]


def weighted_mean(values: Numbers, counts: Sequence[int] | NDArray[Any]) -> float | None:
    """sum n_j v_j / sum n_j; None without values."""
    return float(np.average(values, weights=counts)) if len(values) else None


def mean(values: Numbers) -> float | None:
    """None without values."""
    return float(np.mean(values)) if len(values) else None


def session_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float]:
    """A_t = sum_{j<=t} n_j R[t][j] / sum_{j<=t} n_j: top-1 accuracy on all classes seen after session t."""
    return [float(np.average(row, weights=counts[: len(row)])) for row in matrix]


def session_accuracy_unweighted(matrix: Matrix) -> list[float]:
    """U_t = mean over j <= t of R[t][j]: every session counts the same, whatever its size."""
    return [float(np.mean(row)) for row in matrix]


def pooled_accuracy(matrix: Matrix, counts: Sequence[int]) -> float | None:
    """All predictions of all evaluations in one pool: sum_{t, j<=t} n_j R[t][j] / sum_{t, j<=t} n_j ("AvgAcc" of CPE-CLIP's code)."""
    values = [value for row in matrix for value in row]
    return weighted_mean(values, [count for row in matrix for count in counts[: len(row)]])


def class_mean_accuracy(class_matrix: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the seen classes of the accuracy per class; classes without test images (None) are left out."""
    return [mean([value for value in row if value is not None]) for row in class_matrix]


def new_session_accuracy(matrix: Matrix) -> list[float]:
    """R[t][t] (PILOT's "new")."""
    return [row[-1] for row in matrix]


def old_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
    """Sample-weighted R[t][j] over j < t (PILOT's "old"); None for t = 0."""
    return [weighted_mean(row[:-1], counts[: len(row) - 1]) for row in matrix]


def anytime_accuracy(accuracies: Sequence[float]) -> float | None:
    """A_AUC of online streams (Koh et al. 2022, arXiv 2110.10031): mean over evaluations of the accuracy on the classes exposed so far."""
    return mean(accuracies)
