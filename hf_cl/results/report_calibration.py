"""The report's charts of confidence after the last session: how often the model was right where it was how sure, and how sure it was.

Guo et al., ICML 2017 (arXiv 1706.04599): on the diagonal it is right as often as it says, below it is too sure.
"""

from __future__ import annotations

from typing import NamedTuple

from hf_cl.metrics import CalibrationBins, wilson_interval
from hf_cl.results.charts import Chart, Line


class ScoreBar(NamedTuple):
    """One bin of the histogram of confidences."""

    low: float
    """Percent."""
    high: float
    right: int
    wrong: int
    right_height: float
    """Percent of the highest bar."""
    wrong_height: float


def reliability_chart(bins: CalibrationBins) -> Chart:
    """Accuracy against mean confidence per bin, with the 95 % interval of what its images tell."""
    points = bins.points()
    ends = [wilson_interval(accuracy, images) for _, accuracy, images in points]
    line = Line(
        name="accuracy of the images of a bin",
        values=[round(100 * accuracy, 2) for _, accuracy, _ in points],
        low=[round(100 * low, 2) for low, _ in ends],
        high=[round(100 * high, 2) for _, high in ends],
    )
    x = [round(100 * confidence, 2) for confidence, _, _ in points]
    return Chart(
        title="accuracy, percent", x=x, x_label="confidence, percent", lines=[line], limits=(0, 100), x_limits=(0, 100), diagonal=True
    )


def score_histogram(bins: CalibrationBins) -> list[ScoreBar]:
    """Images by confidence, right ones and wrong ones."""
    most, width = max(bins.images) or 1, 100 / len(bins.images)
    return [
        ScoreBar(i * width, (i + 1) * width, right, images - right, 100 * right / most, 100 * (images - right) / most)
        for i, (images, right) in enumerate(zip(bins.images, bins.correct, strict=True))
    ]
