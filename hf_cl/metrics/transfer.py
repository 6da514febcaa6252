"""Forgetting and transfer. R is the accuracy matrix, T the last session. None where T = 0.

The names hide different formulas in the literature; each has its own function here. Global and local forgetting of Smith et al. 2022
("A closer look at rehearsal-free continual learning", arXiv 2203.17269) are `forgetting` of the plain and of the task-aware matrix: their
difference is classifier bias, not feature drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from hf_cl.metrics.accuracies import Matrix, mean


def _at(row: Sequence[float | None], j: int) -> float:
    value = row[j]
    return nan if value is None else value


def _best(rows: Matrix, j: int) -> float:
    return max((value for row in rows if (value := row[j]) is not None), default=nan)


def forgetting(matrix: Matrix) -> float | None:
    """(1/T) sum_{j<T} ( max_{j<=l<T} R[l][j] - R[T][j] ): Chaudhry et al. 2018 (arXiv 1801.10112); negative where accuracy rose."""
    last = len(matrix) - 1
    return mean([_best(matrix[j:last], j) - _at(matrix[last], j) for j in range(last)])


def forgetting_clipped(matrix: Matrix) -> float | None:
    """The same with the last row in the maximum, so that no term is negative: PILOT, mammoth."""
    last = len(matrix) - 1
    return mean([_best(matrix[j:], j) - _at(matrix[last], j) for j in range(last)])


def forgetting_stepwise(matrix: Matrix) -> float | None:
    """(1/T) sum_{t=1..T} (1/t) sum_{i<t} ( R[t-1][i] - R[t][i] ): the drop per step of CODA-Prompt's script; much smaller numbers."""
    return mean([mean([_at(matrix[t - 1], i) - _at(matrix[t], i) for i in range(t)]) for t in range(1, len(matrix))])


def backward_transfer(matrix: Matrix) -> float | None:
    """(1/T) sum_{j<T} ( R[T][j] - R[j][j] ): GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840), mammoth."""
    last = len(matrix) - 1
    return mean([_at(matrix[last], j) - _at(matrix[j], j) for j in range(last)])


def backward_transfer_all_pairs(matrix: Matrix) -> float | None:
    """2/(T(T+1)) sum_{i=1..T} sum_{j<i} ( R[i][j] - R[j][j] ): continuum."""
    return mean([_at(matrix[i], j) - _at(matrix[j], j) for i in range(1, len(matrix)) for j in range(i)])


def forward_transfer(previous_accuracy: Sequence[float], untrained_accuracy: Sequence[float]) -> float | None:
    """(1/T) sum_{j>=1} ( R[j-1][j] - r_j ): GEM; only for heads that can name unseen classes.

    Args:
        previous_accuracy: R[j-1][j], accuracy on session j just before it is trained, j = 1 ... T.
        untrained_accuracy: r_j, accuracy of the untrained model on session j, j = 1 ... T.
    """
    return mean([previous - untrained for previous, untrained in zip(previous_accuracy, untrained_accuracy, strict=True)])


def forgetting_per_class(class_matrix: Sequence[Sequence[float | None]], *, skip_never_learned: bool = False) -> float | None:
    """F_last: mean over classes of (best accuracy at an earlier session's end - final accuracy).

    Classes that first come in the last session, and classes without test images, are left out. Si-Blurry's code (Moon et al. 2023) also
    leaves out classes whose earlier best is 0: `skip_never_learned`.
    """
    drops = []
    for c, final in enumerate(class_matrix[-1] if class_matrix else ()):
        earlier = [value for row in class_matrix[:-1] if len(row) > c and (value := row[c]) is not None]
        if final is not None and earlier and not (skip_never_learned and max(earlier) == 0):
            drops.append(max(earlier) - final)
    return mean(drops)
