"""The reliability plot: how often the model was right where it was how sure, after the last session.

Guo et al., ICML 2017 (arXiv 1706.04599): on the diagonal it is right as often as it says, below it is too sure.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from hf_cl.metrics import CalibrationBins
from hf_cl.results.report_figures import Theme, style

LARGEST = 260
"""Area in points of the circle of the bin with the most images."""


def draw_reliability(bins: CalibrationBins, theme: Theme, narrow: bool = False) -> Figure:
    """Accuracy against mean confidence per bin; the area of a circle is the bin's share of the images."""
    side = 3.9 if narrow else 4.6
    figure = Figure(figsize=(side, side), layout="constrained", facecolor=theme.surface)
    axes = figure.subplots()
    confidence, accuracy, images = zip(*bins.points(), strict=True)
    axes.plot([0, 100], [0, 100], color=theme.muted, linewidth=1, linestyle=(0, (5, 3)))
    axes.plot([100 * c for c in confidence], [100 * a for a in accuracy], color=theme.series[0], linewidth=1.4)
    areas = [max(12.0, LARGEST * n / max(images)) for n in images]
    axes.scatter([100 * c for c in confidence], [100 * a for a in accuracy], s=areas, color=theme.series[0], alpha=0.75, linewidth=0)
    style(axes, theme, "accuracy, percent")
    axes.set_xlabel("confidence, percent", color=theme.muted, fontsize=9)
    axes.set(xlim=(-3, 103), ylim=(-3, 103))
    return figure
