"""compare.html: several runs on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_cl.metrics import description
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.comparison import NO_DIFFERENCE, Comparison, Group, Spread, draw_of
from hf_cl.results.display import MISSING, flat, four_digits, percent
from hf_cl.results.pages import page_templates, variants
from hf_cl.results.report_figures import MARKED_SESSIONS, Theme, add_legend, drawable, style
from hf_cl.results.results import MARK
from hf_cl.results.table import forgetting_so_far

_LINES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))


def write_comparison(page: str | Path, comparison: Comparison) -> Path:
    """Write the page; returns its path. It loads nothing from anywhere and runs no script."""
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
            figure=variants(partial(draw_comparison, comparison.groups)) if drawn else None,
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


def is_of_probe(name: str) -> bool:
    """Whether a name is `probe.key`; those of metrics have no dot, and a mark's may have any."""
    return "." in name and not name.startswith(MARK)


def _meaning(name: str) -> str:
    if is_of_probe(name):
        return f"Reported by the probe {name.partition('.')[0]}, after the last session."
    if name.startswith(MARK):
        return "Another model, measured in the same run on the same images: accuracy on all classes."
    return description(name.partition("[")[0])


def draw_comparison(groups: Sequence[Group], theme: Theme, narrow: bool = False) -> Figure:
    """Accuracy on all seen classes over sessions, a line per group with a band of one standard deviation; below it, forgetting so far."""
    figure = Figure(figsize=(4.3, 6.2) if narrow else (9, 5.4), layout="constrained", facecolor=theme.surface)
    accuracy, forgot = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    sessions = len(groups[0].runs[0].results.sessions)
    handles = []
    looks = [(line, color) for line in _LINES for color in theme.series]
    for group, (line, color) in zip(groups, cycle(looks), strict=False):
        how: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1.9}
        how |= {"marker": "o", "markersize": 4} if sessions <= MARKED_SESSIONS else {}
        handles += _line_with_band(accuracy, group.over_sessions("session_accuracy"), how)
        lost = zip(*(forgetting_so_far(run.results.accuracy_matrix or []) for run in group.runs), strict=True)
        _line_with_band(forgot, [group.spread(values) for values in lost], how)
    forgot.axhline(0, color=theme.grid, linewidth=1)
    for axes, title in ((accuracy, "accuracy on all seen classes, percent"), (forgot, "forgetting so far, points")):
        style(axes, theme, title)
    forgot.set_xlabel("session", color=theme.muted, fontsize=9)
    forgot.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10 if narrow else 20, min_n_ticks=1))
    forgot.set_xlim(-0.3, sessions - 0.7)
    labels = [drawable(group.label, 44 if narrow else 60) for group in groups]
    add_legend(figure, theme, handles, labels, 1 if narrow or max(map(len, labels)) > 36 else 2)
    return figure


def _line_with_band(axes: Any, spreads: Sequence[Spread | None], how: dict[str, Any]) -> list[Any]:
    means = 100 * np.array([np.nan if spread is None else spread.mean for spread in spreads])
    stds = 100 * np.array([0.0 if spread is None or spread.std is None else spread.std for spread in spreads])
    if stds.any():
        axes.fill_between(range(len(means)), means - stds, means + stds, color=how["color"], alpha=0.16, linewidth=0)
    return axes.plot(means, **how)


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
    if len(runs) > len(comparison.groups) and "class_order_seed" not in comparison.across:
        sentences.append("All runs share one order of classes and one split: the deviation is that of training alone.")
    for key in ("devices", "torch", "hf_cl", "mixed_precision"):
        if len({str(run.results.environment.get(key)) for run in runs}) > 1:
            sentences.append(
                f"The runs do not share one {key.replace('_', ' ')}: times do not compare, and numbers may differ in the last digits."
            )
            break
    return sentences
