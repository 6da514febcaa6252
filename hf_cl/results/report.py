"""report.html: one run on one page that needs nothing else, and the figures of its card as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_cl.metrics import description
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.charts import Figure, figure
from hf_cl.results.class_confusion import ClassConfusion, read_confusion
from hf_cl.results.display import MISSING, display_name, flat
from hf_cl.results.examples import Example, read_examples
from hf_cl.results.pages import inline_png, page_templates
from hf_cl.results.remarks import remarks
from hf_cl.results.report_calibration import reliability_chart, score_histogram
from hf_cl.results.report_curves import accuracy_charts, class_chart, cost_charts
from hf_cl.results.report_epochs import epoch_charts
from hf_cl.results.report_figures import LIGHT, as_png, draw_matrix, draw_sessions, heat_floor, matrix_pixels
from hf_cl.results.report_tables import NUMBERED_CELLS, class_rows, confusions, metric_rows, probe_values, session_rows
from hf_cl.results.report_training import stability_chart, training_charts
from hf_cl.results.results import Results
from hf_cl.results.table import headlines
from hf_cl.results.training_log import TrainingLog, read_training_log

TABLED_SESSIONS = 100
"""Up to so many sessions the accuracy matrix is a table; beyond, a picture: of 1,000 there are 500,500 cells."""


@dataclass(frozen=True)
class BesideResults:
    """What a run folder has besides results.json that the page shows."""

    examples: Sequence[Example] = ()
    confusion: ClassConfusion | None = None
    log: TrainingLog = field(default_factory=TrainingLog)


def write_report(run_dir: str | Path, results: Results, settings: Mapping[str, Any], *, method: str, notes: Sequence[str] = ()) -> Path:
    """Write `report.html`, and `accuracy_matrix.png` and `accuracy_over_sessions.png` where the protocol has sessions.

    Args:
        run_dir: the run folder; it must exist.
        results: what is shown; `results.comparisons` become reference lines.
        settings: every resolved setting of the run, name to value.
        method: name of the method, for the title.
        notes: further sentences for the reader, such as a warning about the backbone.

    Returns the path of the page. It loads nothing from anywhere, follows the reader's light or dark theme, and runs one script, its own.
    """
    folder = Path(run_dir)
    if results.accuracy_matrix is not None:
        write_atomically(folder / "accuracy_matrix.png", as_png(draw_matrix(results, LIGHT)))
        write_atomically(folder / "accuracy_over_sessions.png", as_png(draw_sessions(results, LIGHT)))
    beside = BesideResults(read_examples(folder), read_confusion(folder, results), read_training_log(folder))
    page = folder / "report.html"
    write_atomically(page, render_report(results, settings, method=method, notes=notes, beside=beside))
    return page


def render_report(
    results: Results,
    settings: Mapping[str, Any],
    *,
    method: str,
    notes: Sequence[str] = (),
    beside: BesideResults | None = None,
) -> str:
    """The page as text; see `write_report`, which reads what stands `beside` the results from the run folder."""
    beside = beside or BesideResults()
    histogram = score_histogram(results.calibration[-1]) if results.calibration else []
    template = page_templates().get_template("report.html.jinja")
    return template.render(
        results=results,
        method=method,
        headlines=headlines(results),
        sessions=session_rows(results),
        classes=class_rows(results, beside.confusion),
        metrics=metric_rows(results),
        metrics_meaning={name: description(name) for name in results.metrics},
        missing=MISSING,
        floor=heat_floor(results.accuracy_matrix) if results.accuracy_matrix else 0.0,
        numbered=len(results.sessions) <= NUMBERED_CELLS,
        heat=_matrix_picture(results),
        charts=_charts(results, beside),
        histogram=histogram,
        tallest=max((bar.right + bar.wrong for bar in histogram), default=0),
        confusions=confusions(results, beside.confusion),
        examples=beside.examples,
        example_names=sorted({display_name(name) for example in beside.examples for name in (example.true, example.predicted)}),
        remarks=[*remarks(results), *notes],
        tables=({"Probes, after the last session": probe_values(results)} if results.probes else {})
        | {
            "Protocol": flat(asdict(results.protocol)) | {"seed": results.seed},
            "Settings": flat(settings),
            "Environment": flat(results.environment),
        },
    )


def _charts(results: Results, beside: BesideResults) -> dict[str, Figure | list[Figure] | None]:
    """By section of the page; None or none where the run has nothing to draw there."""
    classes = class_chart(results)
    continual = results.continual
    return {
        "accuracy": [figure(chart) for chart in accuracy_charts(results)] if results.accuracy_matrix else [],
        "classes": figure(classes) if classes else None,
        "stability": figure(stability_chart(continual)) if continual and len(continual.steps) > 1 else None,
        "training": [figure(chart) for chart in training_charts(beside.log)],
        "epochs": [figure(chart) for chart in epoch_charts(results.probes)],
        "reliability": figure(reliability_chart(results.calibration[-1])) if results.calibration else None,
        "costs": [figure(chart) for chart in cost_charts(results)],
    }


def _matrix_picture(results: Results) -> str | None:
    """The matrix as a picture of a pixel per cell, where a table would have too many cells for a page."""
    if results.accuracy_matrix is None or len(results.sessions) <= TABLED_SESSIONS:
        return None
    return inline_png(matrix_pixels(results.accuracy_matrix))
