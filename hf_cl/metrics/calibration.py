"""Whether a model is right as often as it says: bins of confidence, and the expected calibration error.

Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017 (arXiv 1706.04599), whose bins these are: 15 of equal width, open on the left, closed on the right. The confidence of
an image is the probability of the class that the model names.

Letters: n images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
UNIT = 10**9
"""Confidences are added up in whole billionths: exactly, in whatever order and on however many processes."""


@dataclass(frozen=True)
class CalibrationBins:
    """Counts per bin of confidence, bin i from i / 15 (not included) to (i + 1) / 15; they add up over batches and processes."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}
    images: list[int] = field(default_factory=lambda: [0] * BINS)
    correct: list[int] = field(default_factory=lambda: [0] * BINS)
    """Images whose named class is the true one."""
    billionths: list[int] = field(default_factory=lambda: [0] * BINS)
    """Sum of the confidences, times 10^9."""

    @classmethod
    def of(cls, confidence: ArrayLike, correct: ArrayLike) -> CalibrationBins:
        """Of `confidence` [n] in 0 to 1 and `correct` [n]. Raises ValueError for a confidence outside, NaN too."""
        parts = np.asarray(confidence, float)
        if not ((parts >= 0) & (parts <= 1 + 1e-6)).all():  # half precision may round a sum of probabilities up
            raise ValueError("A confidence must be a probability, from 0 to 1.")
        places = np.clip(np.ceil(parts * BINS).astype(np.int64) - 1, 0, BINS - 1)  # [n]
        sums = np.zeros(BINS, np.int64)
        np.add.at(sums, places, np.rint(parts * UNIT).astype(np.int64))
        right = np.bincount(places[np.asarray(correct, bool)], minlength=BINS)
        return cls(np.bincount(places, minlength=BINS).tolist(), right.tolist(), sums.tolist())

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        return CalibrationBins.from_array(self.array() + other.array())

    def array(self) -> NDArray[np.int64]:
        """[3, bins] images, correct, billionths."""
        return np.array([self.images, self.correct, self.billionths], np.int64)

    @classmethod
    def from_array(cls, array: NDArray[np.int64]) -> CalibrationBins:
        """Inverse of `array`."""
        return cls(*array.tolist())

    def points(self) -> list[tuple[float, float, int]]:
        """(mean confidence, accuracy, images) of the bins that have images: what a reliability plot shows."""
        rows = zip(self.images, self.correct, self.billionths, strict=True)
        return [(total / UNIT / n, right / n, n) for n, right, total in rows if n]


def expected_calibration_error(bins: CalibrationBins) -> float | None:
    """sum over bins of n_b / n * |accuracy_b - mean confidence_b|; None without images."""
    images = sum(bins.images)
    return sum(n * abs(accuracy - confidence) for confidence, accuracy, n in bins.points()) / images if images else None


def check_calibration(sessions: Sequence[CalibrationBins], images: Sequence[int]) -> None:
    """Raises ValueError unless there is an entry per evaluation whose bins hold its `images`."""
    found = [sum(bins.images) for bins in sessions]
    if found != list(images):
        raise ValueError(f"calibration needs bins that hold {list(images)} images after each session; got {found}.")
    for t, bins in enumerate(sessions):
        if {len(bins.images), len(bins.correct), len(bins.billionths)} != {BINS}:
            raise ValueError(f"calibration[{t}] needs {BINS} bins.")
        count, right, total = bins.array()  # [bins] each
        if (right < 0).any() or (right > count).any() or (total < 0).any() or (total > count * (UNIT + UNIT // 10**5)).any():
            raise ValueError(f"calibration[{t}]: a bin has more right images than images, or a mean confidence outside of 0 to 1.")
