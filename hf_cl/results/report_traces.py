"""The figure of stability traces: each session's accuracy at every evaluation between the ends of sessions.

De Lange et al. 2023 (arXiv 2205.13452): what is measured at the ends of sessions alone hides how far accuracy falls in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_cl.metrics import StabilityTraces
from hf_cl.results.report_figures import Theme, add_legend, style

TRACED_SESSIONS = 8
"""Sessions drawn, evenly chosen with the first and the last."""
POINTS = 300
"""Points per line; of the evaluations that share one, the lowest accuracy is drawn, since falls are what the figure is for."""


def draw_traces(continual: StabilityTraces, theme: Theme, narrow: bool = False) -> Figure:
    """Accuracy against optimizer steps, a line per session, and where sessions ended."""
    figure = Figure(figsize=(4.3, 4.2) if narrow else (9, 3.9), layout="constrained", facecolor=theme.surface)
    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("sessions", [theme.series[0], theme.series[2], theme.series[1]])
    chosen = traced_sessions(len(continual.traces))
    handles = []
    for number, j in enumerate(chosen):
        steps, values = lowest_points(continual.evaluations(j))
        handles += axes.plot(steps, 100 * values, color=colors(number / max(1, len(chosen) - 1)), linewidth=1.6)
    for end in continual.session_ends[: -1 if len(continual.session_ends) == len(continual.traces) else None]:
        axes.axvline(end, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    style(axes, theme, "accuracy on the test images of a session, percent")
    axes.set_xlabel("optimizer step", color=theme.muted, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if narrow else 12, min_n_ticks=1))
    add_legend(figure, theme, handles, [f"session {j}" for j in chosen], 3 if narrow else len(chosen))
    return figure


def traced_sessions(sessions: int) -> list[int]:
    """At most `TRACED_SESSIONS` of them, the first and the last among them."""
    return sorted({round(j) for j in np.linspace(0, sessions - 1, min(sessions, TRACED_SESSIONS))})


def lowest_points(evaluations: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and accuracies of at most `POINTS` evaluations, the lowest of each stretch."""
    stretches = np.array_split(np.arange(len(evaluations)), min(len(evaluations), POINTS)) if evaluations else []
    lowest = [evaluations[min(stretch, key=lambda i: evaluations[i][1])] for stretch in stretches]
    return np.array([step for step, _ in lowest]), np.array([value for _, value in lowest])
