"""Line charts of the HTML pages, as SVG by hand: small, sharp, in the reader's theme, whole without a script.

Each chart is drawn twice, for a wide and for a narrow screen. The page's script adds what a pointer wants: values where it rests, lines
that come and go by their legend. Lines that are not `shown` are in the data alone until somebody asks for them, so that a chart may offer
a thousand classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from hf_cl.results.display import display_name

COLORS, DASHES = 8, 4
MARKED_POINTS = 30
"""Up to so many points a line marks each one and has error bars; beyond, the errors are a band."""
MARKED_SESSIONS = 100
"""Up to so many vertical lines are drawn; beyond, they would be a grey field."""
LETTER = 7
"""Width of a letter in the pictures' units, at most on average."""
Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line; None is a gap."""

    name: str
    """In words, for legend and pointer."""
    values: Values
    style: int = 0
    """Chooses colour, mark and dashes: equal numbers look alike."""
    low: Values | None = None
    """Lower ends of the errors."""
    high: Values | None = None
    shown: bool = True
    level: bool = False
    """One value for the whole width, such as another model's."""
    marked: bool = True
    """Whether its points have marks; not where they are computed and not measured."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over common points."""

    title: str
    """What the vertical axis says, with its unit."""
    x: Sequence[float]
    """Increasing."""
    x_label: str
    lines: Sequence[Line]
    limits: tuple[float, float] | None = None
    """What the vertical axis spans at least."""
    x_limits: tuple[float, float] | None = None
    most: tuple[float, float] | None = None
    """What it spans at most: errors do not leave 0 to 100 percent."""
    log: bool = False
    log_x: bool = False
    x_ticks: Sequence[float] | None = None
    """Where the horizontal axis has numbers; None: at round ones."""
    marks: Sequence[tuple[float, str]] = ()
    """Vertical lines and what stands above them."""
    height: int = 300
    diagonal: bool = False
    """From corner to corner: where both axes would agree."""


class Frame(NamedTuple):
    """Where the plot lies in its picture, and what its axes span."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool
    log_x: bool = False

    def at_x(self, value: float) -> float:
        low, high, value = (math.log10(n) if self.log_x else n for n in (*self.x, value))
        return self.left + (self.right - self.left) * ((value - low) / (high - low) if high > low else 0.5)

    def at_y(self, value: float) -> float:
        low, high, v = (math.log10(n) if self.log else n for n in (*self.y, value))
        return self.bottom - (self.bottom - self.top) * (v - low) / (high - low)


class LegendEntry(NamedTuple):
    """A line as the legend names it."""

    number: int
    name: str
    swatch: Markup
    shown: bool


class Figure(NamedTuple):
    """A chart as the page has it."""

    title: str
    markup: Markup
    legend: list[LegendEntry]
    """Empty where one line says by the title what it is."""


def figure(chart: Chart) -> Figure:
    """Both pictures, the data and the legend of a chart."""
    text = f"{_svg(chart, 920, chart.height, 'wide')}\n{_svg(chart, 340, min(250, chart.height + 20), 'narrow')}"
    legend = [LegendEntry(i, line.name, swatch(line), line.shown) for i, line in enumerate(chart.lines)]
    return Figure(chart.title, Markup(text) + Markup("\n") + json_block(_data(chart)), legend if len(legend) > 1 else [])


def json_block(data: Any) -> Markup:
    """Data for the page's script; no name in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>')


def look(style: int) -> str:
    """Classes of the style sheet for a line's colour and dashes."""
    return f"s{style % COLORS} d{style // COLORS % DASHES}"


def swatch(line: Line) -> Markup:
    """The line as its legend shows it."""
    mark = "" if line.level or not line.marked else f'<path class="marks" d="{_mark(line.style, 14, 6)}"/>'
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true"><g class="line {look(line.style)}{" level" if line.level else ""}">'
        f'<path class="stroke" d="M1 6H27"/>{mark}</g></svg>'
    )


def _data(chart: Chart) -> dict[str, Any]:
    return {
        "x": [_short(x) for x in chart.x],
        "x_label": chart.x_label,
        "lines": [_line_data(line) for line in chart.lines],
    }


def _line_data(line: Line) -> dict[str, Any]:
    """Values from the first that is there; errors where there are any."""
    start = next((i for i, value in enumerate(line.values) if value is not None), len(line.values))
    found: dict[str, Any] = {"name": display_name(line.name, 60), "look": look(line.style), "start": start}
    found["values"] = [_short(value) for value in line.values[start:]]
    if line.low is not None and line.high is not None:
        found |= {"low": [_short(value) for value in line.low[start:]], "high": [_short(value) for value in line.high[start:]]}
    return found | ({"level": True} if line.level else {})


def _short(value: float | None) -> float | int | None:
    if value is None:
        return None
    short = float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    return int(short) if short == int(short) else short


def _svg(chart: Chart, width: int, height: int, kind: str) -> str:
    frame = _frame(chart, width, height)
    spans = {"left": frame.left, "right": frame.right, "top": frame.top, "bottom": frame.bottom}
    spans |= {"x0": frame.x[0], "x1": frame.x[1], "y0": frame.y[0], "y1": frame.y[1], "log": int(chart.log), "logx": int(chart.log_x)}
    facts = " ".join(f'data-{name}="{value:g}"' for name, value in spans.items())
    parts = [*_axes(chart, frame, width), *(_line(i, line, chart.x, frame) for i, line in enumerate(chart.lines) if line.shown)]
    title = escape(f"{chart.title}, by {chart.x_label}")
    what = f'class="plot {kind}" viewBox="0 0 {width} {height}" role="img" tabindex="0" aria-label="{title}"'
    return f"<svg {what} {facts}>{''.join(parts)}</svg>"


def _frame(chart: Chart, width: int, height: int) -> Frame:
    drawn = [line for line in chart.lines if line.shown]
    levels = [v for line in drawn for some in (line.values, line.low or (), line.high or ()) for v in some if v is not None]
    low, high = min([*levels, *(chart.limits or ())], default=0.0), max([*levels, *(chart.limits or ())], default=1.0)
    if chart.log:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9)
        high = high if high > low else 10 * low
    else:
        ticks = _ticks(low, high, 5)
        step = ticks[1] - ticks[0]
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        high = high if high > low else low + step
    if chart.most:
        low, high = max(low, chart.most[0]), min(high, chart.most[1])
    ends = chart.x_limits or (min(chart.x, default=0.0), max(chart.x, default=1.0))
    return Frame(46, 24 if chart.marks else 12, width - 14, height - 40, ends, (low, high), chart.log, chart.log_x)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that lie in low to high, at least two."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= 0.85 * rough)
    first = math.ceil(low / step - 1e-9)
    found = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [low, high]


def _axes(chart: Chart, frame: Frame, width: int) -> Iterator[str]:
    for y in _decades(frame.y) if chart.log else _ticks(*frame.y, 5):
        at = frame.at_y(y)
        yield f'<path class="grid" d="M{_n(frame.left)} {_n(at)}H{_n(frame.right)}"/>'
        yield _text(frame.left - 8, at + 4, f"{y:g}" if y >= 0.001 or not chart.log else f"1e{math.log10(y):.0f}", "end")
    whole = not chart.x_limits and not chart.x_ticks and all(x == int(x) for x in chart.x)
    spread = frame.x[1] > frame.x[0]
    round_ones = _ticks(*frame.x, max(2, min(max(len(chart.x) - 1, 5), width // 70))) if spread else chart.x
    for x in chart.x_ticks or round_ones:
        if not whole or x == round(x):
            yield _text(frame.at_x(x), frame.bottom + 18, f"{x:g}", "middle")
    yield _text((frame.left + frame.right) / 2, frame.bottom + 35, chart.x_label, "middle")
    yield from _marks(chart, frame)
    if chart.diagonal:
        yield f'<path class="mark" d="M{_n(frame.left)} {_n(frame.bottom)}L{_n(frame.right)} {_n(frame.top)}"/>'


def _marks(chart: Chart, frame: Frame) -> Iterator[str]:
    """Vertical lines; all of them are named, or none where they stand too close."""
    marks = [(frame.at_x(x), label) for x, label in chart.marks] if len(chart.marks) <= MARKED_SESSIONS else []
    named = all(b - a > LETTER * len(label) + 6 for (a, label), (b, _) in pairwise(marks))
    for x, label in marks:
        yield f'<path class="mark" d="M{_n(x)} {_n(frame.top)}V{_n(frame.bottom)}"/>'
        if named:
            yield _text(min(x, frame.right - LETTER * len(label)), frame.top - 8, label, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _decades(span: tuple[float, float]) -> list[float]:
    low, high = (round(math.log10(end)) for end in span)
    return [10.0**n for n in range(low, high + 1, 1 + (high - low) // 6)]


def _line(number: int, line: Line, x: Sequence[float], frame: Frame) -> str:
    drawn = [(frame.at_x(a), frame.at_y(v)) if v is not None else None for a, v in zip(x, line.values, strict=True)]
    if line.level:
        drawn = [(frame.left, frame.at_y(line.values[0] or 0.0)), (frame.right, frame.at_y(line.values[0] or 0.0))]
    parts = [f'<path class="stroke" d="{_path(drawn)}"/>']
    few = len(x) <= MARKED_POINTS
    if line.low is not None and line.high is not None:
        parts.insert(0, _errors(x, line.low, line.high, frame, few))
    if few and line.marked and not line.level:
        marks = "".join(_mark(line.style, *point) for point in drawn if point)
        parts.append(f'<path class="marks" d="{marks}"/>')
    return f'<g class="line {look(line.style)}{" level" if line.level else ""}" data-line="{number}">{"".join(parts)}</g>'


def _errors(x: Sequence[float], low: Values, high: Values, frame: Frame, few: bool) -> str:
    """As far as the axis goes: by one standard error a share may lie above 100 percent."""
    pairs = [(a, max(b, frame.y[0]), min(c, frame.y[1])) for a, b, c in zip(x, low, high, strict=True) if b is not None and c is not None]
    ends = [(frame.at_x(a), frame.at_y(b), frame.at_y(c)) for a, b, c in pairs]
    if few:
        bars = "".join(f"M{_n(a)} {_n(b)}V{_n(c)}" for a, b, c in ends)
        return f'<path class="errors" d="{bars}"/>'
    there = "L".join(f"{_n(a)} {_n(c)}" for a, _, c in ends)
    back = "L".join(f"{_n(a)} {_n(b)}" for a, b, _ in reversed(ends))
    return f'<path class="band" d="M{there}L{back}Z"/>' if ends else ""


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    parts, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        parts.append(f"{pen}{_n(point[0])} {_n(point[1])}")
        pen = "L"
    return "".join(parts)


def _mark(style: int, x: float, y: float) -> str:
    """A circle, square, triangle, diamond or bar around a point."""
    left, top = _n(x - 3.5), _n(y - 3.5)
    return (
        f"M{left} {_n(y)}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0Z",
        f"M{left} {top}h7v7h-7Z",
        f"M{_n(x)} {_n(y - 4.5)}l4.5 8h-9Z",
        f"M{_n(x)} {_n(y - 5)}l5 5l-5 5l-5-5Z",
        f"M{_n(x - 1.5)} {_n(y - 5)}h3v10h-3Z",
        f"M{_n(x)} {_n(y + 4.5)}l4.5-8h-9Z",
    )[style % 6]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
