"""Averages over data sets for base-to-novel generalisation (CoOp, Zhou et al. 2022, arXiv 2109.01134; CoCoOp, arXiv 2203.05557).

B and N of one data set are means over seeds. Published "average" rows are `harmonic_of_means`; the mean of the H's is another number.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_cl.metrics.accuracies import mean
from hf_cl.metrics.few_shot import harmonic_mean


def harmonic_of_means(base: Sequence[float], novel: Sequence[float]) -> float | None:
    """H of the averaged B and N over data sets: the published rows (82.28 and 75.14 give 78.55)."""
    means = mean(base), mean(novel)
    return None if means[0] is None or means[1] is None else harmonic_mean(means[0], means[1])


def mean_of_harmonics(base: Sequence[float], novel: Sequence[float]) -> float | None:
    """Mean over data sets of H = 2 B N / (B + N)."""
    return mean([harmonic_mean(b, n) for b, n in zip(base, novel, strict=True)])
