"""What a user reads after every session, and at the end: tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hf_cl.metrics import Matrix, Metric, RunningForgetting, session_accuracy
from hf_cl.results.display import MISSING, display_name, percent
from hf_cl.results.results import Results

LATEST_TESTS = 5
"""Test columns beside that of the base session where a run has more sessions; 80 columns of a terminal hold them."""
NARROWEST_COLUMN = 4
"""Of a test: two spaces and two digits, to know what cannot fit before it is tried."""
_HEADLINES = (
    "final_accuracy",
    "final_accuracy_unweighted",
    "average_incremental_accuracy",
    "average_incremental_accuracy_unweighted",
    "forgetting",
    "backward_transfer",
    "performance_drop",
    "average_harmonic_accuracy",
    "base_accuracy_within",
    "novel_accuracy_within",
    "harmonic_accuracy_within",
    "average_test_accuracy",
)
_TITLE = "accuracy per test, percent"
_FEW_SHOT_ONLY = ("performance_drop", "average_harmonic_accuracy")


def forgetting_so_far(matrix: Matrix) -> list[float | None]:
    """`forgetting` after each session, as if the run had ended there; None after session 0."""
    running, lost = RunningForgetting(), []
    for row in matrix:
        running.add(np.array(row, float))
        lost.append(running.forgetting)
    return lost


def progress(results: Results) -> list[tuple[int, float | None, float | None]]:
    """(session, accuracy on all seen classes, forgetting so far) after each session; empty where the protocol has no matrix."""
    matrix = results.accuracy_matrix or []
    counts = results.test_counts_then or [results.test_counts] * len(matrix)
    accuracies = [session_accuracy([row], n)[0] for row, n in zip(matrix, counts, strict=True)]
    return list(zip(range(len(matrix)), accuracies, forgetting_so_far(matrix), strict=True))


def headlines(results: Results) -> dict[str, float]:
    """The scalar metrics that a summary shows, by full name.

    Final and average incremental accuracy always come together; the `_unweighted` ones only where weighting by image makes a difference.
    """
    shown: dict[str, float] = {}
    for name in _HEADLINES:
        value = results.metrics[name]
        if not isinstance(value, float) or (name in _FEW_SHOT_ONLY and results.protocol.shots is None):
            continue
        if name == "average_test_accuracy" and "harmonic_accuracy_within" in shown:
            continue
        by_image = shown.get(name.removesuffix("_unweighted"))
        if name.endswith("_unweighted") and by_image is not None and percent(by_image) == percent(value):
            continue
        shown[name] = value
    return shown


def session_news(metrics: Mapping[str, Metric]) -> Text:
    """What a user reads after a session, of the metrics so far: a line with its accuracy and forgetting."""
    accuracies, own, forgotten = metrics["session_accuracy"], metrics["new_session_accuracy"], metrics["forgetting"]
    assert isinstance(accuracies, Sequence) and isinstance(own, Sequence)
    after = f", forgetting {percent(forgotten)} %" if isinstance(forgotten, float) else ""
    its_own = "no test images of its own" if own[-1] is None else f"its own {percent(own[-1])} %"
    seen = MISSING if accuracies[-1] is None else f"{percent(accuracies[-1])} %"
    return Text(f"session {len(own) - 1}: all seen classes {seen}, {its_own}{after}")


class FittedTable:
    """The table of sessions at the width of a terminal: as many of the latest tests as fit beside that of session 0, and a mark for those
    that are left out. `results.json` has them all. The accuracy on all seen classes and forgetting are never left out.
    """

    def __init__(self, results: Results) -> None:
        self.results = results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sessions = len(self.results.accuracy_matrix or [])
        for latest in range(min(sessions, options.max_width // NARROWEST_COLUMN), 0, -1):
            table = session_table(self.results, latest)
            if Measurement.get(console, options.update(max_width=10**4), table).maximum <= options.max_width:
                break
        else:
            table = session_table(self.results, 0)
        yield table


def session_table(results: Results, latest: int = LATEST_TESTS) -> Table:
    """Sessions so far: accuracy on each session's test images, on all seen classes, and forgetting so far. Percent.

    `latest`: test columns beside that of session 0; 0: neither, only what is said of all seen classes.
    """
    if results.accuracy_matrix is None:
        return accuracy_of_tests(results)
    matrix = results.accuracy_matrix
    tests = _columns(len(matrix), latest)
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True, title=_TITLE, title_justify="left")
    for heading in ("after", *("" if j is None else _heading(results, j) for j in tests), "all seen", "forgetting"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t, accuracy, forgot in progress(results):
        cells = ["…" if j is None else percent(matrix[t][j]) if j <= t else "" for j in tests]
        table.add_row(str(t), *cells, Text(percent(accuracy), style="bold"), percent(forgot))
    return table


def _heading(results: Results, session: int) -> str:
    """The session; with its test images now and then, where their number has changed."""
    now, then = results.test_counts[session], results.first_test_counts[session]
    return str(session) if now == then else f"{session} ({now} of {then})" if now < then else f"{session} ({now}, was {then})"


def _columns(sessions: int, latest: int) -> list[int | None]:
    """Tests that have a column; None for the gap that leaves out the middle."""
    if latest and sessions <= latest + 1:
        return list(range(sessions))
    return [0, None, *range(sessions - latest, sessions)] if latest else [None]


def accuracy_of_tests(results: Results) -> Table:
    """Tests with candidates of their own. Percent."""
    table = Table(box=box.SIMPLE, pad_edge=False, title=_TITLE, title_justify="left")
    table.add_column("test")
    table.add_column("images", justify="right")
    table.add_column("accuracy", justify="right")
    for (name, accuracy), count in zip((results.test_accuracy or {}).items(), results.test_counts, strict=True):
        table.add_row(Text(display_name(name)), str(count), percent(accuracy))
    return table


def summary_table(results: Results) -> Table:
    """The headline numbers by full name, percent with two decimals, and what they were compared with."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in headlines(results).items():
        table.add_row(Text(name), Text(percent(value), style="bold"))
    for name, value in results.comparisons.items():
        table.add_row(Text(f"for comparison: {display_name(name)}"), percent(value))
    return table
