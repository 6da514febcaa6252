"""Tables and figures of the pages are those of the code."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest

import hf_cl
from hf_cl import metrics
from hf_cl.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- end -->" in page.read_text()], ids=lambda page: page.name)
def test_options_and_settings_are_those_of_the_code(page):
    assert page.read_text() == module("options.py").filled(page.read_text()), "run: python docs/options.py"


def test_every_adapter_page_has_options_a_figure_equations_and_a_snippet():
    pages = [page for page in PAGES if page.parent.name == "adapters" and page.name not in ("index.md", "clip_by_hand.md")]
    assert len(pages) >= 5
    drawn = {figure.__name__ for figure in module("figures/draw.py").FIGURES}
    for page in pages:
        text = page.read_text()
        assert (page.stem in drawn) == ("](../figures/" in text), page.name
        for piece in ("<!-- options of ", "<!-- settings of ", "## Equations\n", "```python test\n"):
            assert piece in text, f"{page.name}: {piece}"


def test_figures_are_as_drawn():
    figures = {figure.__name__: figure().svg() for figure in module("figures/draw.py").FIGURES}
    taken = {Path(picture).stem for picture in json.loads((DOCS / "figures" / "screenshots.json").read_text())["pictures"]}
    assert figures.keys() == {path.stem for path in (DOCS / "figures").glob("*.svg")} - taken
    for name, svg in figures.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text() == svg, "run: python docs/figures/draw.py"


def rows_of_metrics() -> dict[str, str]:
    """Name -> formula, from the tables of the page."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a metric stands in two rows"
    return dict(rows)


def test_every_metric_has_its_row_with_a_formula():
    rows = rows_of_metrics()
    assert rows.keys() == METRICS.keys()
    assert all(formula.strip() for formula in rows.values())


def test_every_function_of_the_metrics_is_on_the_page():
    plumbing = {"count_correct", "description", "evaluate_predictions", "harmonic_mean", "session_of_class", "summarize"}
    plumbing |= {"summarize_tests", "summarize_traces"}
    functions = {
        name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name)) and not name.startswith("check_")
    } - plumbing
    assert functions <= set(re.findall(r"`(\w+)", (DOCS / "metrics.md").read_text()))


def test_the_lists_of_sessions_are_marked():
    """`[t]` stands where a summary gives a list."""
    page = (DOCS / "metrics.md").read_text()
    marked = set(re.findall(r"^\| `(\w+)` \[[tj]\] \|", page, re.MULTILINE))
    matrix = {"accuracy_matrix": [[1.0], [0.5, 1.0]], "accuracy_matrix_within": [[1.0], [1.0, 1.0]]}
    matrix |= {"accuracy_matrix_task_aware": matrix["accuracy_matrix"], "class_accuracy_matrix": matrix["accuracy_matrix"]}
    traces = metrics.StabilityTraces(every=1, steps=[1, 2], session_ends=[1, 2], traces=[[1.0, 0.5], [1.0]])
    rest = {"test_counts": [2, 2], "test_accuracy": None, "future_accuracy": None, "continual": traces, "test_counts_then": None}
    rest |= {"calibration": [metrics.CalibrationBins(), metrics.CalibrationBins()]}
    values = metrics.summarize(type("Measured", (), {**matrix, **rest})())
    assert marked == {name for name, value in values.items() if isinstance(value, list)}


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_screenshots_are_of_this_version():
    record = json.loads((DOCS / "figures" / "screenshots.json").read_text())
    assert record["version"] == hf_cl.__version__, "run: python docs/figures/screenshots.py"
    shown = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    for picture in record["pictures"]:
        assert (DOCS / "figures" / picture).stat().st_size < 400_000 and f"figures/{picture}" in shown, picture
