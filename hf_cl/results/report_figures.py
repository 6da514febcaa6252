"""The pictures of a run for its card and for pages elsewhere, as PNG: accuracy matrix, accuracy and forgetting over sessions.

matplotlib's objects only, no pyplot, no global state. They say what the report's charts say, in the same words and colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hf_cl.metrics import Matrix
from hf_cl.results.charts import MARKED_POINTS
from hf_cl.results.display import display_name, percent
from hf_cl.results.pages import Color, blend, lighter_reads
from hf_cl.results.report_curves import curves, errors, images_of, percents, words
from hf_cl.results.results import Results
from hf_cl.results.table import forgetting_so_far

FONT = "DejaVu Sans"  # ships with matplotlib
PIXEL = (56, 120, 210)
"""A blue that stands out on light and dark pages."""
NUMBERED_SESSIONS = 12
"""Up to so many sessions the cells of the matrix carry their numbers."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the report's style sheet has the same ones."""

    surface: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, str, str, str]
    heat: str

    @property
    def heat_ends(self) -> tuple[Color, Color]:
        """The colours of the lowest accuracy and of 100 percent."""
        low, high = ((int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)) for text in (self.surface, self.heat))
        return low, high


LIGHT = Theme("#ffffff", "#1c2430", "#5d6878", "#e3e7ed", ("#2166c4", "#c4570b", "#0b8468", "#a3265f"), "#174a9c")
DARK = Theme("#171c24", "#e8ebf0", "#9aa5b5", "#2d3541", ("#6aa9f7", "#f0954f", "#3fc29f", "#ee7fb0"), "#7db4ff")
_MARKERS = ("o", "s", "^")
_DASHES = ((0, (5, 3)), (0, (1.5, 2)), (0, (7, 2, 1.5, 2)), (0, (3, 1.5)))


def draw_sessions(results: Results, theme: Theme) -> Figure:
    """Accuracy over sessions with its 95 % intervals, `results.comparisons` as reference lines; below it, forgetting so far."""
    figure = Figure(figsize=(9, 5.4), layout="constrained", facecolor=theme.surface)
    accuracy, forgot = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    handles, labels = [], []
    few = len(results.sessions) <= MARKED_POINTS
    for (name, values), color, marker in zip(curves(results).items(), theme.series, _MARKERS, strict=False):
        drawn, (low, high) = _floats(percents(values)), (_floats(percents(ends)) for ends in errors(values, images_of(results)[name]))
        if few:
            accuracy.vlines(range(len(drawn)), low, high, color=color, linewidth=1, alpha=0.6)
        else:
            accuracy.fill_between(range(len(drawn)), low, high, color=color, alpha=0.16, linewidth=0)
        look: dict[str, Any] = {"marker": marker if few else "", "markersize": 4.5, "linewidth": 1.4 if handles else 2.2}
        handles += accuracy.plot(drawn, color=color, **look)
        labels.append(words(results, name))
    for i, (name, value) in enumerate(results.comparisons.items()):
        handles.append(accuracy.axhline(100 * value, color=theme.muted, linewidth=1.3, linestyle=_DASHES[i % len(_DASHES)]))
        labels.append(f"at the end: {drawable(name, 44)} {percent(value)}")
    forgot.axhline(0, color=theme.grid, linewidth=1)
    lost = _floats(percents(forgetting_so_far(results.accuracy_matrix or [])))
    look = {"marker": _MARKERS[0] if few else "", "markersize": 4.5, "linewidth": 1.8}
    forgot.plot(lost, color=theme.series[3], clip_on=False, **look)  # the panel is low: its edge would cut marks
    low, high = forgot.get_ylim()
    forgot.set_ylim(min(low, -1), max(high, 1))  # a tenth of a point must not look like a collapse
    for axes, title in ((accuracy, "accuracy, percent, with 95 % intervals"), (forgot, "forgetting so far, points")):
        _style(axes, theme, title)
    forgot.set_xlabel("session", color=theme.muted, fontsize=9)
    forgot.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    forgot.set_xlim(-0.3, len(results.sessions) - 0.7)
    _add_legend(figure, theme, handles, labels, 3 - bool(results.comparisons))  # names of comparisons may be long
    return figure


def _add_legend(figure: Figure, theme: Theme, handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    """A legend that takes any name: matplotlib would leave out those that begin with an underscore, and typeset what stands between $."""
    legend = figure.legend(handles, [label.lstrip("_") for label in labels], loc="outside upper left", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set(color=theme.ink, fontsize=9, parse_math=False)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])  # a gap in the line, never shown as a number


def _style(axes: Axes, theme: Theme, title: str) -> None:
    """The look all figures share: a title on the left, horizontal lines, no frame."""
    axes.set_facecolor(theme.surface)
    axes.set_title(title, loc="left", fontsize=9.5, color=theme.muted)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.margins(y=0.08)


def heat_floor(matrix: Matrix) -> float:
    """Where the colours of the matrix begin: the lowest accuracy, rounded down to ten percent, and at most 90 %."""
    return min(0.9, np.floor(10 * min((value for row in matrix for value in row if value is not None), default=1.0)) / 10)


def draw_matrix(results: Results, theme: Theme) -> Figure:
    """The accuracy matrix as a heat map: row = after session t, column = test images of session j."""
    matrix = results.accuracy_matrix or []
    sessions, floor = len(matrix), heat_floor(matrix)
    cells = np.full((sessions, sessions), np.nan)  # no colour above the diagonal
    for t, row in enumerate(matrix):
        cells[t, : t + 1] = np.array(row, float)  # None becomes NaN, which has no colour
    side = float(np.clip(0.62 * sessions + 1.6, 3.6, 9))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained", facecolor=theme.surface)
    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("heat", [theme.surface, theme.heat])
    edges = np.arange(sessions + 1) - 0.5
    gap = 1.5 if sessions <= NUMBERED_SESSIONS else 0
    mesh = axes.pcolormesh(edges, edges, 100 * cells, cmap=colors, vmin=100 * floor, vmax=100, edgecolors=theme.surface, linewidth=gap)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    if sessions <= NUMBERED_SESSIONS:
        for t, row in enumerate(matrix):
            for j, value in enumerate(row):
                if value is None:
                    continue
                light = lighter_reads(blend(*theme.heat_ends, max(0.0, (value - floor) / (1 - floor))))
                axes.text(j, t, percent(value), ha="center", va="center", fontsize=8, color="white" if light else "black")
    for axis, label in ((axes.xaxis, "test images of session"), (axes.yaxis, "after session")):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
        axis.set_label_text(label, color=theme.muted, fontsize=9)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("accuracy, percent, all seen classes compete", loc="left", fontsize=9.5, color=theme.muted)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.6, aspect=18)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(colors=theme.muted, labelsize=8, length=0)
    return figure


def matrix_pixels(matrix: Matrix) -> bytes:
    """PNG of a long run's accuracy matrix, a pixel per cell: one blue whose opacity is the accuracy, for both themes."""
    floor, sessions = heat_floor(matrix), len(matrix)
    strength = np.zeros((sessions, sessions))
    for t, row in enumerate(matrix):
        strength[t, : t + 1] = np.nan_to_num(0.04 + 0.96 * (np.array(row, float) - floor) / (1 - floor))
    picture = Image.fromarray(np.rint(31 * strength).astype(np.uint8))  # in 32 steps, which nobody tells apart and a file keeps small
    picture.putpalette(PIXEL * 32)
    file = BytesIO()
    picture.save(file, format="png", transparency=bytes(range(0, 256, 8)))
    return file.getvalue()


def as_png(figure: Figure) -> bytes:
    """PNG of a figure, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    file = BytesIO()
    with mpl.rc_context({"font.family": [FONT]}):
        figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


def drawable(text: str, limit: int) -> str:
    """Text with what the figures' font cannot draw (emoji, CJK) replaced by a box."""
    return "".join(character if ord(character) in _glyphs() else "□" for character in display_name(text, limit))
