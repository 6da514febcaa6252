"""Metrics of few-shot class-incremental learning: performance drop, base and novel accuracy, their harmonic mean.

R is the accuracy matrix, n the test counts. Session 0 is the base session, all later classes are novel. `base_accuracy` and
`novel_accuracy` take the best of ALL seen classes (generalised); from the matrix `accuracy_matrix_within` the same functions give the
`_within` variants, where base classes compete among themselves and novel ones among themselves (CLOM, Zou et al. 2022, arXiv 2210.00232).
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_cl.metrics.accuracies import Matrix, mean, weighted_mean


def performance_drop(session_accuracy: Sequence[float | None]) -> float | None:
    """PD = A_0 - A_T, absolute; None for a single session."""
    first, last = session_accuracy[0], session_accuracy[-1]
    return None if first is None or last is None or len(session_accuracy) == 1 else first - last


def performance_drop_relative(session_accuracy: Sequence[float | None]) -> float | None:
    """(A_0 - A_T) / A_0; None for a single session and where A_0 is 0."""
    drop = performance_drop(session_accuracy)
    return None if drop is None or not session_accuracy[0] else drop / session_accuracy[0]


def base_accuracy(matrix: Matrix) -> list[float | None]:
    """R[t][0]."""
    return [row[0] for row in matrix]


def novel_accuracy(matrix: Matrix, counts: Sequence[int]) -> list[float | None]:
    """sum_{1<=j<=t} n_j R[t][j] / sum_{1<=j<=t} n_j: all novel classes so far; None for t = 0."""
    return [weighted_mean(row[1:], counts[1 : len(row)]) for row in matrix]


def harmonic_mean(first: float, second: float) -> float:
    """2 b n / (b + n); 0 where both are 0."""
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def harmonic_accuracy(base: Sequence[float | None], novel: Sequence[float | None]) -> list[float | None]:
    """Harmonic mean of base and novel accuracy after each session ("HM"); None where there is no novel class yet."""
    return [None if b is None or n is None else harmonic_mean(b, n) for b, n in zip(base, novel, strict=True)]


def average_harmonic_accuracy(harmonic: Sequence[float | None]) -> float | None:
    """Mean over the sessions that have one, t = 1 ... T (mean of the H_t, the convention of FSCIL)."""
    return mean([value for value in harmonic if value is not None])
