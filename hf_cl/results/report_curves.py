"""The report's charts over sessions: accuracy with its errors, forgetting, each class, time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hf_cl.metrics import wilson_interval
from hf_cl.results.charts import Chart, Line
from hf_cl.results.results import Results
from hf_cl.results.table import forgetting_so_far

PERCENT = (0.0, 100.0)
ALL_SHOWN, CLASSES_SHOWN = 12, 8
"""Up to so many classes all curves are drawn; of more so many, until the reader chooses."""
CLASSES_OFFERED = 1000
"""Classes whose curves can be asked for: beyond, those that lost most."""
MOST_VALUES = 200_000
"""Accuracies of classes that the page holds; of more sessions it takes evenly spaced ones."""
WORDS = {
    "session_accuracy": "all classes seen so far",
    "base_accuracy": "classes of session 0",
    "new_session_accuracy": "new classes of that session",
    "novel_accuracy": "all classes since session 0",
}
WORDS_OF_DOMAINS = {
    "session_accuracy": "all domains so far",
    "base_accuracy": "the first domain",
    "new_session_accuracy": "the newest domain",
    "novel_accuracy": "all domains but the first",
}


def words(results: Results, name: str) -> str:
    """What a curve over sessions shows, for its legend."""
    return (WORDS_OF_DOMAINS if results.protocol.domains else WORDS)[name]


def curves(results: Results) -> dict[str, Sequence[float | None]]:
    """The accuracies drawn over sessions, by metric name: all seen classes, base, and new (few-shot: all novel) classes."""
    third = "new_session_accuracy" if results.protocol.shots is None else "novel_accuracy"
    drawn: dict[str, Sequence[float | None]] = {}
    for name in ("session_accuracy", "base_accuracy", third):
        values = results.metrics[name]
        assert isinstance(values, Sequence)
        drawn[name] = values
    return drawn


def images_of(results: Results) -> dict[str, list[int]]:
    """Test images behind each value of `curves`."""
    then = results.test_counts_then or [results.test_counts[: t + 1] for t in range(len(results.sessions))]
    return {
        "session_accuracy": [sum(row) for row in then],
        "base_accuracy": [row[0] for row in then],
        "new_session_accuracy": [row[-1] for row in then],
        "novel_accuracy": [sum(row[1:]) for row in then],
    }


def errors(values: Sequence[float | None], images: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
    """Lower and upper ends of the 95 % intervals of accuracies, each measured on so many images."""
    ends = [None if v is None or not n else wilson_interval(v, n) for v, n in zip(values, images, strict=True)]
    return [None if end is None else end[0] for end in ends], [None if end is None else end[1] for end in ends]


def percents(values: Sequence[float | None]) -> list[float | None]:
    """Fractions as percent with two decimals."""
    return [None if value is None else round(100 * value, 2) for value in values]


def accuracy_charts(results: Results) -> list[Chart]:
    """Accuracy over sessions, the other models of the run as levels; and forgetting so far."""
    x, lines = [*range(len(results.sessions))], []
    for style, (name, values) in enumerate(curves(results).items()):
        low, high = errors(values, images_of(results)[name])
        lines.append(Line(name=words(results, name), values=percents(values), style=style, low=percents(low), high=percents(high)))
    for style, (name, value) in enumerate(results.comparisons.items(), start=len(lines) + 1):
        lines.append(Line(name=f"at the end: {name}", values=[round(100 * value, 2)] * len(x), style=style, level=True))
    lost = percents(forgetting_so_far(results.accuracy_matrix or []))
    forgetting = Line(name="forgetting so far", values=lost, style=3)
    accuracy = Chart(title="accuracy, percent", x=x, x_label="session", lines=lines, most=PERCENT)
    fall = Chart(title="forgetting so far, points", x=x, x_label="session", lines=[forgetting], limits=(-1, 1), height=190)
    return [accuracy, fall] if len(x) > 1 else [accuracy]  # a tenth of a point must not look like a collapse


def class_chart(results: Results) -> Chart | None:
    """Accuracy of each class over sessions; those that lost most are drawn, the others wait in the legend."""
    matrix, names = results.class_accuracy_matrix, results.class_names
    if matrix is None or len(matrix) < 2:
        return None
    table = np.full((len(matrix), len(names)), np.nan)  # [T + 1, C]
    for t, row in enumerate(matrix):
        table[t, : len(row)] = np.array(row, float)
    change = table[-1] - np.fmax.reduce(table, axis=0)  # [C], below 0 where a class was better before
    order = np.argsort(np.where(np.isnan(change), np.inf, change), kind="stable").tolist()
    count = len(order) if len(order) <= ALL_SHOWN else CLASSES_SHOWN
    offered = [*sorted(order[:count]), *sorted(order[count:CLASSES_OFFERED])]
    points = max(2, min(len(matrix), MOST_VALUES // len(offered)))
    x = sorted({round(t) for t in np.linspace(0, len(matrix) - 1, points)})
    arrived = [session.id for session in results.sessions for _ in session.new_class_names]
    together = len({*arrived}) == 1  # as in a stream of domains
    lines = [
        Line(
            name=names[c] if together else f"{names[c]} (session {arrived[c]})",
            values=_known(table[x, c]),
            style=number,
            shown=number < count,
        )
        for number, c in enumerate(offered)
    ]
    return Chart(title="accuracy of a class, percent", x=x, x_label="session", lines=lines, limits=PERCENT)


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(100 * float(value), 2) for value in values]


def cost_charts(results: Results) -> list[Chart]:
    """Seconds and memory of each session."""
    x, charts = [*range(len(results.sessions))], []
    if results.times and len(x) > 1:
        spent = {"training": results.times.training, "evaluation": results.times.evaluation}
        unit, scale = _unit(max(map(max, spent.values())), ((3600, "hours"), (60, "minutes"), (1, "seconds")))
        charts.append(_costs(f"time, {unit}", x, spent, lambda value: value / scale))
    if results.memory and len(x) > 1:
        unit, scale = _unit(max(results.memory.peak_bytes), ((1e9, "GB"), (1e6, "MB")))
        charts.append(_costs(f"memory at its peak, {unit}", x, {"memory": results.memory.peak_bytes}, lambda value: value / scale))
    return charts


def _unit(most: float, units: Sequence[tuple[float, str]]) -> tuple[str, float]:
    size, name = next((unit for unit in units if most >= 2 * unit[0]), units[-1])
    return name, size


def _costs(title: str, x: Sequence[int], values: Mapping[str, Sequence[float]], scaled: Callable[[float], float]) -> Chart:
    lines = [Line(name=name, values=[scaled(v) for v in of], style=style) for style, (name, of) in enumerate(values.items())]
    return Chart(title=title, x=x, x_label="session", lines=lines, limits=(0, 0), height=190)
