"""The report's charts of training: losses and learning rates over optimizer steps, and accuracy between the ends of sessions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hf_cl.metrics import StabilityTraces
from hf_cl.results.charts import Chart, Line
from hf_cl.results.training_log import TrainingLog

TRACED_SESSIONS = 8
"""Sessions drawn, evenly chosen with the first and the last."""
POINTS = 300
"""Points per line."""
WIDE = 50
"""Losses whose largest value is so many times the smallest are drawn by powers of ten."""


def training_charts(log: TrainingLog) -> list[Chart]:
    """Losses, and learning rates, where the run has logged them."""
    losses = {key.replace("_", " "): values for key, values in log.losses.items()}
    different = _different(log.rates)
    rates = {"learning rate" if len(different) == 1 else f"parameter group {key}": values for key, values in different.items()}
    drawn = (("loss, mean of the batches", losses, statistics.fmean), ("learning rate", rates, _last))
    return [_by_step(title, of, combine, log.begins) for title, of, combine in drawn if any(len(values) > 1 for values in of.values())]


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _different(rates: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Groups with one course are drawn once."""
    found: dict[str, dict[int, float]] = {}
    for key, values in rates.items():
        if values not in found.values():
            found[key] = values
    return found


def _by_step(
    title: str, series: Mapping[str, dict[int, float]], combine: Callable[[Sequence[float]], float], begins: dict[int, int]
) -> Chart:
    stretches = _stretches(sorted({step for values in series.values() for step in values}))
    lines = [Line(name=name, values=_over(stretches, values, combine), style=style) for style, (name, values) in enumerate(series.items())]
    known = [value for line in lines for value in line.values if value is not None]
    log = min(known) > 0 and max(known) > WIDE * min(known)
    starts = sorted((step, str(session)) for session, step in begins.items()) if len(begins) > 1 else []
    x, limits = [stretch[-1] for stretch in stretches], None if log else (0.0, 0.0)
    marks = [(float(max(step, x[0])), label if i else f"session {label}") for i, (step, label) in enumerate(starts)]
    return Chart(title=title, x=x, x_label="optimizer step", lines=lines, limits=limits, log=log, marks=marks, height=220)


def _stretches(steps: Sequence[int]) -> list[list[int]]:
    """At most `POINTS` runs of neighbouring steps, each drawn as one point at its last step."""
    return [stretch.tolist() for stretch in np.array_split(steps, min(len(steps), POINTS))] if steps else []


def _over(
    stretches: Sequence[Sequence[int]], values: Mapping[int, float], combine: Callable[[Sequence[float]], float]
) -> list[float | None]:
    """What `combine` makes of each stretch; None where nothing was read in it, such as of a loss that other sessions have."""
    found = [[values[step] for step in stretch if step in values] for stretch in stretches]
    return [combine(some) if some else None for some in found]


def stability_chart(continual: StabilityTraces) -> Chart:
    """Accuracy against optimizer steps, a line per session, and where sessions began.

    Of the evaluations that share a point the lowest accuracy is drawn, since falls are what the chart is for.
    """
    stretches = _stretches(continual.steps)
    traced = traced_sessions(len(continual.traces))
    lines = [
        Line(name=f"test images of session {j}", values=_over(stretches, _percents(continual, j), min), style=style)
        for style, j in enumerate(traced)
    ]
    x = [stretch[-1] for stretch in stretches]
    ended = len(continual.session_ends) == len(continual.traces)
    starts = [0, *continual.session_ends[: -1 if ended else None]]
    marks = [(float(max(start, x[0] if x else 0)), str(j) if j else "session 0") for j, start in enumerate(starts)]
    title = "accuracy on the test images of a session, percent"
    return Chart(title=title, x=x, x_label="optimizer step", lines=lines, most=(0, 100), marks=marks)


def _percents(continual: StabilityTraces, session: int) -> dict[int, float]:
    return {step: round(100 * value, 2) for step, value in continual.evaluations(session)}


def traced_sessions(sessions: int) -> list[int]:
    """At most `TRACED_SESSIONS` of them, the first and the last among them."""
    return sorted({round(j) for j in np.linspace(0, sessions - 1, min(sessions, TRACED_SESSIONS))})
