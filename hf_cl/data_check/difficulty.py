"""How much a method must bring beyond features and labels to learn a session: in nats.

After Boopathy et al., "Towards Exact Computation of Inductive Bias" (arXiv 2406.15941): what a task asks of an inductive bias is -log of
the probability that a hypothesis which fits the training images generalises as well as wanted. Hypotheses are drawn from a Gaussian process
on the backbone's features. The authors fit a scaled chi-square to draws of the error; here its tail comes from the exact cumulant function
by the saddlepoint (Lugannani and Rice, 1980), without draws and down to 1e-200.

Shapes: n training images, m test images, C classes, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erfcx

JITTER = 1e-3
MOST = 1000
"""Test images that are looked at, and four times as many training images."""

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class RandomError:
    """The squared error of a random hypothesis: sum over i of `weights`_i chi2'_C(`offsets`_i / `weights`_i)."""

    weights: Rows  # [m]
    offsets: Rows  # [m]
    classes: int

    @property
    def mean(self) -> float:
        return float(self.classes * self.weights.sum() + self.offsets.sum())

    def nats(self, error: float) -> float:
        """-log of the probability that the error is at most `error`."""
        w, b, half = self.weights, self.offsets, self.classes / 2

        def cumulants(s: float) -> tuple[float, float, float]:
            """The cumulant function at s and its first two derivatives."""
            d = 1 - 2 * s * w
            return (
                float((-half * np.log(d) + s * b / d).sum()),
                float((2 * half * (w / d) + b / d / d).sum()),
                float((4 * half * (w / d) ** 2 + 4 * (w / d) * (b / d / d)).sum()),
            )

        s = _root(lambda s: cumulants(s)[1] - error, 1 / (2 * float(w.max())))
        value, _, second = cumulants(s)
        r = math.copysign(math.sqrt(max(2 * (s * error - value), 0.0)), s)
        u = s * math.sqrt(second)
        if abs(r) < 1e-6 or abs(u) < 1e-6:  # at the mean the formula is 0 - 0: half of all draws, nearly
            return math.log(2)
        if r > 0:  # easier than the mean: 1 - the upper tail
            upper = math.exp(-r * r / 2) * (erfcx(r / math.sqrt(2)) / 2 - (1 / r - 1 / u) / math.sqrt(2 * math.pi))
            return -math.log1p(-min(max(upper, 0.0), 1 - 1e-12))
        tail = erfcx(-r / math.sqrt(2)) / 2 + (1 / r - 1 / u) / math.sqrt(2 * math.pi)
        return r * r / 2 - math.log(max(tail, 1e-300))


def _root(slope: Callable[[float], float], most: float) -> float:
    """Where an increasing function of s < `most` is 0."""
    low, high = -most, most * (1 - 1e-12)
    while slope(low) > 0:
        low *= 2
    found: Any = brentq(slope, low, high, xtol=1e-15 * most)
    return float(found)


def random_error(train: Rows, train_labels: NDArray[np.int64], test: Rows, test_labels: NDArray[np.int64], classes: int) -> RandomError:
    """The error on test images of a random function that fits the training images, one-hot targets minus 1 / C.

    The process has the kernel exp(-|a - b|^2 / D) and a jitter of 1e-3 on the training images.

    Args:
        train, test: [n, D], [m, D] features of unit variance.
        train_labels, test_labels: [n], [m].
        classes: C.
    """
    mean, covariance = posterior(train, _targets(train_labels, classes), test)
    values, vectors = np.linalg.eigh(covariance)
    scale = 1 / (len(test) * classes)
    off = vectors.T @ (mean - _targets(test_labels, classes))  # [m, C]
    return RandomError(np.maximum(values, 0) * scale, (off**2).sum(1) * scale, classes)


def posterior(train: Rows, targets: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Mean [m, C] and covariance [m, m] of the process at the test images, given [n, C] at the training images."""
    between = _kernel(test, train)  # [m, n]
    lower = np.linalg.cholesky(_kernel(train, train) + JITTER * np.eye(len(train)))
    half = np.linalg.solve(lower, between.T)  # [n, m]
    return half.T @ np.linalg.solve(lower, targets), _kernel(test, test) - half.T @ half


def _kernel(a: Rows, b: Rows) -> Rows:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-np.maximum(squares, 0) / a.shape[1])


def _targets(labels: NDArray[np.int64], classes: int) -> Rows:
    return np.eye(classes)[labels] - 1 / classes
