"""compare.html: several runs on one page that needs nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_cl.metrics import description
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.charts import Chart, Line, figure
from hf_cl.results.comparison import NO_DIFFERENCE, Comparison, Group, Spread, draw_of
from hf_cl.results.display import MISSING, flat, four_digits, percent, shown
from hf_cl.results.pages import page_templates
from hf_cl.results.paired import class_rows, paired_differences
from hf_cl.results.results import MARK
from hf_cl.results.table import forgetting_so_far


def write_comparison(page: str | Path, comparison: Comparison) -> Path:
    """Write the page; returns its path. It loads nothing from anywhere and runs one script, its own."""
    page = Path(page)
    write_atomically(page, render_comparison(comparison))
    return page


def render_comparison(comparison: Comparison) -> str:
    """The page as text."""
    drawn = all(run.results.accuracy_matrix for group in comparison.groups for run in group.runs)
    return (
        page_templates()
        .get_template("compare.html.jinja")
        .render(
            comparison=comparison,
            count=sum(len(group.runs) for group in comparison.groups),
            title=comparison_title(comparison),
            charts=[figure(chart) for chart in comparison_charts(comparison.groups)] if drawn else [],
            pairs=paired_differences(comparison),
            classes=class_rows(comparison.groups),
            points=points,
            rows=[(group, [number_text(group, name) for name in comparison.metrics]) for group in comparison.groups],
            sessions=_session_rows(comparison.groups) if drawn else [],
            meanings={name: _meaning(name) for name in comparison.metrics},
            settings=_differing_settings(comparison.groups),
            remarks=comparison_remarks(comparison),
            missing=MISSING,
        )
    )


def number_text(group: Group, name: str) -> str:
    """A metric in percent, "84.20 ± 0.31", or the mean alone where there is one run; a probe's number as it is."""
    return spread_text(group.metric(name), four_digits if is_of_probe(name) else percent)


def spread_text(spread: Spread | None, text: Callable[[float], str] = percent) -> str:
    """ "84.20 ± 0.31", or the mean alone where there is one run."""
    if spread is None:
        return MISSING
    return text(spread.mean) + ("" if spread.std is None else f" ± {text(spread.std)}")


def points(difference: float, name: str) -> str:
    """A difference of a metric in points, with its sign; of a probe's number as it is."""
    value = difference if is_of_probe(name) else round(100 * difference, 2) + 0.0
    return f"{value:+.4g}" if is_of_probe(name) else f"{value:+.2f}"


def is_of_probe(name: str) -> bool:
    """Whether a name is `probe.key`; those of metrics have no dot, and a mark's may have any."""
    return "." in name and not name.startswith(MARK)


def _meaning(name: str) -> str:
    if is_of_probe(name):
        return f"Reported by the probe {name.partition('.')[0]}, after the last session."
    if name.startswith(MARK):
        return "Another model, measured in the same run on the same images: accuracy on all classes."
    return description(name.partition("[")[0])


def comparison_charts(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy on all seen classes over sessions, a line per group with one standard deviation to each side; and forgetting so far."""
    x = [*range(len(groups[0].runs[0].results.sessions))]
    accuracy = [group.over_sessions("session_accuracy") for group in groups]
    lost = [_spreads_of_forgetting(group) for group in groups]
    charts = [
        Chart(
            title="accuracy on all seen classes, percent",
            x=x,
            x_label="session",
            lines=[*_lines(groups, accuracy), *_levels(groups, len(x))],
        ),
        Chart(title="forgetting so far, points", x=x, x_label="session", lines=_lines(groups, lost), limits=(-1, 1), height=220),
    ]
    return charts if len(x) > 1 else charts[:1]


def _spreads_of_forgetting(group: Group) -> list[Spread | None]:
    runs = (forgetting_so_far(run.results.accuracy_matrix or []) for run in group.runs)
    return [group.spread(values) for values in zip(*runs, strict=True)]


def _lines(groups: Sequence[Group], spreads: Sequence[Sequence[Spread | None]]) -> list[Line]:
    return [_line(group, style, values) for style, (group, values) in enumerate(zip(groups, spreads, strict=True))]


def _levels(groups: Sequence[Group], points: int) -> list[Line]:
    """The marks that every run has, as their mean over all runs: other models at the end of the same stream."""
    runs = [run.results.comparisons for group in groups for run in group.runs]
    common = [name for name in runs[0] if all(name in marks for marks in runs)]
    values = [round(100 * statistics.fmean(marks[name] for marks in runs), 2) for name in common]
    found = enumerate(zip(common, values, strict=True), start=len(groups))
    return [Line(name=f"at the end: {name}", values=[value] * points, style=style, level=True) for style, (name, value) in found]


def _line(group: Group, style: int, spreads: Sequence[Spread | None]) -> Line:
    values = [None if spread is None else round(100 * spread.mean, 2) for spread in spreads]
    if all(spread is None or spread.std is None for spread in spreads):
        return Line(name=group.label, values=values, style=style)
    low, high = (
        [None if spread is None or spread.std is None else 100 * (spread.mean + sign * spread.std) for spread in spreads]
        for sign in (-1, 1)
    )
    return Line(name=group.label, values=values, style=style, low=low, high=high)


def comparison_title(comparison: Comparison) -> str:
    """The data set that all runs share, or how many they have between them."""
    several = comparison.across.get("dataset")
    return shown(comparison.protocol.get("dataset")) if several is None else f"{len(several)} data sets: {shown(several)}"


def _session_rows(groups: Sequence[Group]) -> list[tuple[int, list[str]]]:
    columns = [group.over_sessions("session_accuracy") for group in groups]
    return [(t, [spread_text(column[t]) for column in columns]) for t in range(len(columns[0]))]


def _differing_settings(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Settings that are not the same in all groups; None where a method has no such setting."""
    settings = [flat(group.runs[0].settings) for group in groups]
    keys = dict.fromkeys(key for one in settings for key in one if key.split(".")[0] not in NO_DIFFERENCE)
    found = {key: [one.get(key) for one in settings] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def comparison_remarks(comparison: Comparison) -> list[str]:
    """What a reader must know before comparing the groups, a sentence each."""
    sentences = ["Mean over runs ± standard deviation (dividing by n - 1). A single run has no deviation, and its mean is one number."]
    if comparison.across:
        keys = ", ".join(comparison.across)
        sentences.append(f"The protocols differ in {keys}, as asked for: means go over it, and numbers compare with that in mind.")
    runs = [run for group in comparison.groups for run in group.runs]
    draws = [sorted(repr(draw_of(run, comparison.across)) for run in group.runs) for group in comparison.groups]
    if any(draw != draws[0] for draw in draws):
        what = " and ".join(["seeds", *comparison.across])
        sentences.append(f"The groups were not run with the same {what}: part of their difference may come from that.")
    if "class_order_seed" in comparison.across and len({tuple(run.results.class_names) for run in runs}) == 1:
        sentences.append(
            "All runs had their classes in one order: class_order_seed moved splits and draws alone (`--class_order seed` draws orders)."
        )
    held_out = {run.settings.get("validation_fraction", 0.0) for run in runs}
    if len(held_out) > 1 and any(run.results.marks for run in runs):
        sentences.append(
            "The runs keep different shares of their training images out (validation_fraction), and a mark is fitted to what its run "
            "trains on: the same mark may differ by that."
        )
    if len(runs) > len(comparison.groups) and "class_order_seed" not in comparison.across:
        sentences.append("All runs share one order of classes and one split: the deviation is that of training alone.")
    common = max((len(pair.differences) for pair in paired_differences(comparison)), default=0)
    if common > 1:
        least = f"{2 / 2**common:.2g}"
        sentences.append(
            f"With {common} common runs a sign test cannot fall below {least}, whatever the difference: few seeds prove little."
        )
    for key in ("devices", "torch", "hf_cl", "mixed_precision"):
        if len({str(run.results.environment.get(key)) for run in runs}) > 1:
            sentences.append(
                f"The runs do not share one {key.replace('_', ' ')}: times do not compare, and numbers may differ in the last digits."
            )
            break
    return sentences
