"""The report's charts of what the probes `epochs` and `memorization` saw: a value after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_cl.results.charts import COLORS, Chart, Line
from hf_cl.results.epoch_remarks import sessions_of
from hf_cl.results.report_training import traced_sessions


def epoch_charts(probes: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """Validation loss and accuracy by epoch, and training accuracy on labels that looked wrong and on the others, dashed and solid lines of
    a session's colour; none of a run without the probes."""
    epochs, memory = _chosen(sessions_of(probes, "epochs")), _chosen([s for s in sessions_of(probes, "memorization") if s["measured"]])
    losses, accuracies = (
        [(f"session {one['session']}", number, one["measured"], [scale * value for value in one[key]]) for number, one in enumerate(epochs)]
        for key, scale in (("validation_loss", 1), ("validation_accuracy", 100))
    )
    learned = [
        (f"session {one['session']}, {words}", number + COLORS * dashed, one["measured"], [100 * value for value in one[key]])
        for number, one in enumerate(memory[:4])
        for key, words, dashed in (("other_accuracy", "others", 0), ("suspect_accuracy", "looked wrong", 1))
    ]
    drawn = (
        ("validation loss after each epoch", losses, None),
        ("validation accuracy after each epoch, among the session's classes, percent", accuracies, (0.0, 100.0)),
        ("training accuracy by how the label looked before, percent", learned, (0.0, 100.0)),
    )
    charts = [_by_epoch(title, series, most) for title, series, most in drawn]
    return [chart for chart in charts if len(chart.x) > 1]


def _chosen(sessions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [sessions[i] for i in traced_sessions(len(sessions))] if sessions else []


def _by_epoch(title: str, series: Sequence[tuple[str, int, Sequence[int], Sequence[float]]], most: tuple[float, float] | None) -> Chart:
    """Of (name, style, epochs, values)."""
    x = sorted({epoch + 1 for *_, epochs, _ in series for epoch in epochs})
    lines = []
    for name, style, epochs, values in series:
        at = {epoch + 1: value for epoch, value in zip(epochs, values, strict=True)}
        lines.append(Line(name=name, values=[at.get(epoch) for epoch in x], style=style))
    return Chart(title=title, x=x, x_label="epoch of the session", lines=lines, most=most, height=220)
