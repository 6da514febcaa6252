"""compare.html of `hf-cl compare --scale`: a plot, a sentence for each pair of methods, and the numbers behind both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.charts import Chart, Line, figure
from hf_cl.results.display import MISSING
from hf_cl.results.pages import page_templates
from hf_cl.results.scaling import LEAST, Curve, Difference, Pair, Scaling

_BETWEEN = 18
"""Points of a fitted curve between the smallest and the largest x."""


def write_scaling(page: str | Path, scaling: Scaling, title: str) -> Path:
    """Write the page; returns its path. It loads nothing from anywhere and runs one script, its own."""
    rows = [(curve, _rows(curve, scaling), asymptote_text(scaling, i)) for i, curve in enumerate(scaling.curves)]
    differences = [(pair, [(f"{d.x:g}", difference_text(d, scaling)) for d in pair.differences]) for pair in scaling.pairs]
    text = (
        page_templates()
        .get_template("scale.html.jinja")
        .render(
            title=title,
            scaling=scaling,
            chart=figure(scale_chart(scaling)),
            sentences=[*pair_sentences(scaling), ranking_sentence(scaling)],
            remarks=remarks(scaling),
            rows=rows,
            differences=differences,
        )
    )
    write_atomically(Path(page), text)
    return Path(page)


def scale_chart(scaling: Scaling) -> Chart:
    """Means with one standard deviation to each side, and the fitted curves, over a logarithmic x."""
    measured = sorted({x for curve in scaling.curves for x in curve.x})
    x = sorted({*measured, *np.geomspace(measured[0], measured[-1], _BETWEEN).round(6).tolist()})
    unit = 100 if scaling.is_error else 1
    lines = []
    for style, curve in enumerate(scaling.curves):
        spreads = [np.std([*at.values()], ddof=1) if len(at) > 1 else None for at in curve.losses]
        points = {place: (mean, spread) for place, mean, spread in zip(curve.x, curve.means.tolist(), spreads, strict=True)}
        ends = [points.get(place, (None, None)) for place in x]
        low, high = ([None if s is None else unit * (m + sign * s) for m, s in ends] for sign in (-1, 1))
        values = [None if m is None else unit * m for m, _ in ends]
        known = any(value is not None for value in low)
        lines.append(Line(name=curve.label, values=values, style=style, low=low if known else None, high=high if known else None))
        drawn = [unit * float(curve.fitted(place)) if curve.x[0] <= place <= curve.x[-1] else None for place in x]
        lines.append(Line(name=f"{curve.label}: {curve.fitted}", values=drawn, style=style, marked=False))
    what = f"error, 1 - {scaling.metric}, percent" if scaling.is_error else scaling.metric
    return Chart(title=what, x=x, x_label=scaling.key, lines=lines, log_x=True, x_ticks=measured)


def pair_sentences(scaling: Scaling) -> list[str]:
    """What may be said of each pair of methods."""
    return [_sentence(pair, scaling) for pair in scaling.pairs]


def _sentence(pair: Pair, scaling: Scaling) -> str:
    first, second, key = pair.first.label, pair.second.label, scaling.key
    if not pair.differences:
        return f"{first} and {second} were not measured at two common values of {key}."
    if all(d.interval is None for d in pair.differences):
        return f"{first} and {second}: single runs have no intervals, so nothing is claimed."
    names = {"first": first, "second": second}
    low, high = pair.differences[0], pair.differences[-1]
    if pair.claim == "crossing":
        ends = [f"{names[d.winner]} {{}}{d.x:g} ({difference_text(d, scaling, apart=True)})" for d in (low, high)]
        said = f"{ends[0].format(f'wins at {key} ')}, {ends[1].format('at ')}."
        if pair.crossing is None:
            return f"{said} The fitted curves do not cross, so where it turns is not known."
        reach = "" if pair.crossing_interval is None else " ({:.3g} to {:.3g})".format(*pair.crossing_interval)
        return f"{said} The fitted curves cross at {pair.crossing:.3g}{reach}."
    if pair.claim != "none":
        other = second if pair.claim == "first" else first
        return f"{names[pair.claim]} wins over {other} at every measured value of {key} ({_listed(pair.differences)}).{_possible(pair)}"
    parts = [
        f"{names[who]} wins at {key} {_listed(won)}"
        for who in ("first", "second")
        if (won := [d for d in pair.differences if d.winner == who])
    ]
    open_ones = [d for d in pair.differences if d.winner == "none"]
    for words, single in (("no difference shown", False), ("single runs, of which nothing is claimed,", True)):
        if some := [d for d in open_ones if (d.interval is None) == single]:
            parts.append(f"{words} at {key} {_listed(some)}")
    return f"{first} and {second}: {'; '.join(parts)}.{_possible(pair)}"


def _possible(pair: Pair) -> str:
    return (
        ""
        if pair.possible is None
        else f" Beyond what was measured the fitted curves cross near {pair.possible:.3g}: that is possible, no more."
    )


def _listed(differences: Sequence[Difference]) -> str:
    return ", ".join(f"{difference.x:g}" for difference in differences)


def difference_text(difference: Difference, scaling: Scaling, *, apart: bool = False) -> str:
    """Loss of the first minus the second with its interval; `apart`: by how much the better one is ahead."""
    unit, name = (100, " points") if scaling.is_error else (1, "")
    sign = -1 if apart and difference.mean < 0 else 1
    ends = None if difference.interval is None else sorted(sign * end for end in difference.interval)
    shown = f"{unit * sign * difference.mean:{'.2f' if apart else '+.2f'}}{name}" if scaling.is_error else f"{sign * difference.mean:.4g}"
    if ends is None:
        return shown
    low, high = (f"{unit * end:.2f}" if scaling.is_error else f"{end:.4g}" for end in ends)
    return f"{shown}, 95 % {low} to {high}"


def ranking_sentence(scaling: Scaling) -> str:
    """In how many pairs the order of means at the smallest x is that at the largest."""
    pairs = [pair for pair in scaling.pairs if pair.differences]
    if not pairs:
        return "There is no pair of methods to rank."
    ends = {(pair.differences[0].x, pair.differences[-1].x) for pair in pairs}
    low, high = (f"{end:g}" for end in ends.pop()) if len(ends) == 1 else ("the smallest common value", "the largest")
    kept, crossed = sum(pair.keeps_order for pair in pairs), sum(pair.claim == "crossing" for pair in pairs)
    said = f"The ranking at {scaling.key} {low} predicts the ranking at {high} in {kept} of {len(pairs)} pairs"
    where = f"in {crossed}" if crossed else "in none"
    return f"{said}; {where} it turns round by more than the seeds explain."


def remarks(scaling: Scaling) -> list[str]:
    """What a reader must know of the curves, a sentence each."""
    found = [
        "A method wins at an x where the 95 % interval of the difference of means over seeds leaves 0 out (bootstrap, paired where seeds "
        "are shared). A crossing is claimed only where one wins at the smallest x and the other at the largest. That fitted curves cross "
        "says little: those of two equal curves mostly do."
    ]
    flat = [curve.label for curve in scaling.curves if not curve.saturating]
    if flat:
        found.append(
            f"Fitted without an asymptote, for want of more than {LEAST} values or of a doubling of {scaling.key}: {', '.join(flat)}."
        )
    if len({curve.x for curve in scaling.curves}) > 1:
        found.append(f"The methods were not measured at the same {scaling.key}; pairs are compared over what both have.")
    if any(len(at) < 2 for curve in scaling.curves for at in curve.losses):
        found.append("Where there is one run of a method at an x there is no interval, and nothing is claimed of it.")
    if scaling.floored:
        found.append(f"{scaling.floored} runs made no error; they count as half a test image wrong.")
    if any(2 <= len(at) < 5 for curve in scaling.curves for at in curve.losses):
        found.append("With fewer than five seeds the intervals are too narrow: take claims near 0 with care.")
    return found


def _rows(curve: Curve, scaling: Scaling) -> list[tuple[str, int, str]]:
    unit = 100 if scaling.is_error else 1
    rows = []
    for x, at in zip(curve.x, curve.losses, strict=True):
        values = [unit * value for value in at.values()]
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        rows.append((f"{x:g}", len(values), f"{np.mean(values):.2f}{spread}" if scaling.is_error else f"{np.mean(values):.4g}"))
    return rows


def asymptote_text(scaling: Scaling, number: int) -> str:
    """E with its interval; a dash where it is not known."""
    interval, unit = scaling.asymptotes[number], 100 if scaling.is_error else 1
    if interval is None:
        return MISSING
    return f"{unit * scaling.curves[number].fitted.E:.3g} ({unit * interval[0]:.3g} to {unit * interval[1]:.3g})"


def as_json(scaling: Scaling) -> dict[str, Any]:
    """The numbers."""
    curves = [
        {
            "label": curve.label,
            "x": list(curve.x),
            "losses": [[*at.values()] for at in curve.losses],
            "means": curve.means.tolist(),
            "fit": {"A": curve.fitted.A, "a": curve.fitted.a, "E": curve.fitted.E},
            "E_interval": scaling.asymptotes[i],
        }
        for i, curve in enumerate(scaling.curves)
    ]
    pairs = [
        {
            "first": pair.first.label,
            "second": pair.second.label,
            "claim": pair.claim,
            "sentence": sentence,
            "differences": [{"x": d.x, "mean": d.mean, "interval": d.interval} for d in pair.differences],
            "crossing": pair.crossing,
            "crossing_interval": pair.crossing_interval,
            "possible_crossing": pair.possible,
        }
        for pair, sentence in zip(scaling.pairs, pair_sentences(scaling), strict=True)
    ]
    what = {"key": scaling.key, "metric": scaling.metric, "losses_are": "1 - metric" if scaling.is_error else "metric"}
    return what | {"curves": curves, "pairs": pairs, "ranking": ranking_sentence(scaling), "remarks": remarks(scaling)}
