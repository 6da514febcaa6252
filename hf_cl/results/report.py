"""report.html: one run on one page that needs nothing else, and the figures beside it as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_cl.metrics import description
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.display import MISSING, duration, flat, four_digits, percent, size
from hf_cl.results.examples import Example, read_examples
from hf_cl.results.pages import inline_png, page_templates, variants
from hf_cl.results.remarks import remarks
from hf_cl.results.report_calibration import draw_reliability
from hf_cl.results.report_figures import DARK, LIGHT, as_png, draw_matrix, draw_sessions, heat_floor
from hf_cl.results.report_traces import draw_traces
from hf_cl.results.results import Results
from hf_cl.results.table import headlines, progress

NUMBERED_CELLS = 25
"""Up to so many sessions the heat map shows its numbers; beyond, they appear where the pointer rests."""
TABLED_SESSIONS = 100
"""Up to so many sessions the heat map is a table whose cells tell their numbers; beyond, a picture: of 1,000 there are 500,500 cells."""
CLASS_NAMES_PER_SESSION = 12
"""Class names listed in a row of the sessions' table; the rest is counted, and stands in the table of classes."""


class SessionRow(NamedTuple):
    """One row of the table of sessions."""

    id: int
    names: Sequence[str]
    more: int
    num_train: int
    num_test: int
    trained: bool
    accuracy: float | None
    forgetting: float | None
    training: str
    evaluation: str
    memory: str


class PairRow(NamedTuple):
    """Two classes of different sessions, of which the first was taken for the second."""

    true: str
    true_session: int
    predicted: str
    predicted_session: int
    images: int


class Confusions(NamedTuple):
    """What was named as a class of another session, after the last one."""

    total: int
    as_later: int
    """Images named as a class that came later than their own."""
    as_earlier: int
    shares: list[list[float]] | None
    """Entry j, k: share of the test images of classes of session j that were named as a class of session k, for the `sessions`; None where
    it would not fit the page, and where one session brought all classes."""
    sessions: list[int]
    """Those that brought classes."""
    pairs: list[PairRow]


class ClassRow(NamedTuple):
    """One row of the table of classes."""

    name: str
    session: int
    accuracy: float | None


def write_report(run_dir: str | Path, results: Results, settings: Mapping[str, Any], *, method: str, notes: Sequence[str] = ()) -> Path:
    """Write `report.html`, and `accuracy_matrix.png` and `accuracy_over_sessions.png` where the protocol has sessions.

    Args:
        run_dir: the run folder; it must exist.
        results: what is shown; `results.comparisons` become reference lines.
        settings: every resolved setting of the run, name to value.
        method: name of the method, for the title.
        notes: further sentences for the reader, such as a warning about the backbone.

    Returns the path of the page. It loads nothing from anywhere, runs no script, and follows the reader's light or dark theme.
    """
    folder = Path(run_dir)
    if results.accuracy_matrix is not None:
        write_atomically(folder / "accuracy_matrix.png", as_png(draw_matrix(results, LIGHT)))
        write_atomically(folder / "accuracy_over_sessions.png", as_png(draw_sessions(results, LIGHT)))
    page = folder / "report.html"
    write_atomically(page, render_report(results, settings, method=method, notes=notes, examples=read_examples(folder)))
    return page


def render_report(
    results: Results, settings: Mapping[str, Any], *, method: str, notes: Sequence[str] = (), examples: Sequence[Example] = ()
) -> str:
    """The page as text; see `write_report`, which reads the `examples` from the run folder."""
    template = page_templates().get_template("report.html.jinja")
    return template.render(
        results=results,
        method=method,
        headlines=headlines(results),
        sessions=_session_rows(results),
        classes=_class_rows(results),
        metrics=_metric_rows(results),
        metrics_meaning={name: description(name) for name in results.metrics},
        missing=MISSING,
        floor=heat_floor(results.accuracy_matrix) if results.accuracy_matrix else 0.0,
        numbered=len(results.sessions) <= NUMBERED_CELLS,
        heat=_matrix_picture(results),
        figure=variants(partial(draw_sessions, results)) if results.accuracy_matrix else None,
        traces=variants(partial(draw_traces, results.continual)) if results.continual and results.continual.steps else None,
        reliability=variants(partial(draw_reliability, results.calibration[-1])) if results.calibration else None,
        confusions=_confusions(results),
        examples=examples,
        remarks=[*remarks(results), *notes],
        tables=({"Probes, after the last session": probe_values(results)} if results.probes else {})
        | {
            "Protocol": flat(results.to_dict()["protocol"]) | {"seed": results.seed},
            "Settings": flat(settings),
            "Environment": flat(results.environment),
        },
    )


def _matrix_picture(results: Results) -> dict[str, str] | None:
    """The matrix as a picture per theme, where a table would have too many cells for a page."""
    if results.accuracy_matrix is None or len(results.sessions) <= TABLED_SESSIONS:
        return None
    return {name: inline_png(as_png(draw_matrix(results, theme))) for name, theme in (("light", LIGHT), ("dark", DARK))}


def _session_rows(results: Results) -> list[SessionRow]:
    after = progress(results) or [(session.id, None, None) for session in results.sessions]
    return [
        SessionRow(
            session.id,
            session.new_class_names[:CLASS_NAMES_PER_SESSION],
            max(0, len(session.new_class_names) - CLASS_NAMES_PER_SESSION),
            session.num_train,
            session.num_test,
            session.trained,
            accuracy,
            forgot,
            duration(results.times.training[session.id]) if results.times else MISSING,
            duration(results.times.evaluation[session.id]) if results.times else MISSING,
            size(results.memory.peak_bytes[session.id]) if results.memory else MISSING,
        )
        for session, (_, accuracy, forgot) in zip(results.sessions, after, strict=True)
    ]


def _class_rows(results: Results) -> list[ClassRow]:
    accuracies = results.per_class_accuracy or {}
    return [ClassRow(name, session.id, accuracies.get(name)) for session in results.sessions for name in session.new_class_names]


def _confusions(results: Results) -> Confusions | None:
    if not results.session_confusion:
        return None
    between, names = np.array(results.session_confusion), results.class_names
    session_of = [session.id for session in results.sessions for _ in session.new_class_names]
    pairs = [
        PairRow(names[true], session_of[true], names[said], session_of[said], images) for true, said, images in results.confused_pairs or []
    ]
    sessions = sorted({*session_of})
    table = between[np.ix_(sessions, sessions)]
    shares = (table / table.sum(axis=1, keepdims=True)).tolist() if 1 < len(sessions) <= NUMBERED_CELLS else None
    return Confusions(int(between.sum()), int(np.triu(between, 1).sum()), int(np.tril(between, -1).sum()), shares, sessions, pairs)


def probe_values(results: Results) -> dict[str, Any]:
    """What probes reported, under dotted names; numbers with four digits."""
    return {key: [_short(entry) for entry in v] if isinstance(v, list) else _short(v) for key, v in flat(results.probes).items()}


def _short(value: Any) -> Any:
    return four_digits(value) if isinstance(value, float) else value


def _metric_rows(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, meaning); a list shows its values in order of the sessions."""
    rows = []
    for name, value in results.metrics.items():
        text = ", ".join(map(percent, value)) if isinstance(value, Sequence) else percent(value)
        rows.append((name, text, description(name)))
    return rows
