"""`hf-cl compare`: several runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_cl.cli.app import LOOK, AsJson, app, early_mistake, mistake, mistakes_in_a_line, print_json

if TYPE_CHECKING:
    from hf_cl.results.comparison import Comparison, Spread


@app.command(rich_help_panel=LOOK)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    across: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="a key of the protocol that may differ, e.g. class_order_seed for a mean over orders; repeatable"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="what to show instead of the headline numbers: a metric, or a probe's number; repeatable"),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write; an old one is replaced")] = Path("compare.html"),
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="does the ranking hold where there is more? A curve per method over shots, epochs, r, ... or sessions"
        ),
    ] = None,
    extrapolate: Annotated[
        float, typer.Option(min=1, help="with --scale: how many times the largest value a crossing is mentioned as possible")
    ] = 1.0,
    resamples: Annotated[int, typer.Option(min=100, help="with --scale: of the seeds, for the intervals")] = 1000,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table (booktabs)")] = False,
    as_json: AsJson = False,
) -> None:
    """Mean and standard deviation over seeds, by method, of runs with one protocol; and compare.html with their curves.

    Runs of one method with the same settings but the seed are a group. The deviation divides by n - 1. Runs of different protocols are
    refused, and the keys that differ are named. With --scale the runs of a group may differ in KEY, and the page says whose curve crosses
    whose.
    """
    from hf_cl.results.comparison import ProtocolsDifferError  # noqa: PLC0415
    from hf_cl.results.comparison import compare as compare_runs  # noqa: PLC0415
    from hf_cl.results.comparison_latex import comparison_latex  # noqa: PLC0415
    from hf_cl.results.comparison_page import write_comparison  # noqa: PLC0415
    from hf_cl.results.saved_run import read_run  # noqa: PLC0415

    if scale is not None:
        if latex or len(metric or ()) > 1:
            raise early_mistake("--scale goes with one --metric at most, and has no --latex.")
        _scale(runs, scale, (metric or [None])[0], across or (), output, (extrapolate, resamples), as_json)
        return
    with mistakes_in_a_line():
        try:
            comparison = compare_runs([read_run(folder) for folder in runs], across or (), metric or ())
        except ProtocolsDifferError as error:
            consent = " ".join(f"--across {key}" for key in error.keys)
            raise mistake(f"{error} To compare them all the same: {consent}") from error
        page = write_comparison(output, comparison)
    if as_json:
        print_json(_as_json(comparison, page))
    elif latex:
        typer.echo(comparison_latex(comparison))
    else:
        _print(comparison, page)


def _scale(
    runs: list[Path], key: str, metric: str | None, across: Sequence[str], output: Path, how: tuple[float, int], json_wanted: bool
) -> None:
    from hf_cl.results.comparison import ProtocolsDifferError, protocol_of  # noqa: PLC0415
    from hf_cl.results.display import shown  # noqa: PLC0415
    from hf_cl.results.saved_run import read_run  # noqa: PLC0415
    from hf_cl.results.scaling import scale_curves  # noqa: PLC0415
    from hf_cl.results.scaling_page import as_json, pair_sentences, ranking_sentence, remarks, write_scaling  # noqa: PLC0415

    with mistakes_in_a_line():
        try:
            read = [read_run(folder) for folder in runs]
            scaling = scale_curves(read, key, metric, across=across, extrapolate=how[0], resamples=how[1])
        except ProtocolsDifferError as error:
            consent = " ".join(f"--across {name}" for name in error.keys)
            raise mistake(f"{error} To compare them all the same: {consent}") from error
        page = write_scaling(output, scaling, shown(protocol_of(read[0])["dataset"]))
    if json_wanted:
        print_json(as_json(scaling) | {"page": str(page)})
        return
    for sentence in (*pair_sentences(scaling), ranking_sentence(scaling), *remarks(scaling)):
        typer.echo(sentence)
    typer.echo(f"Page {page}")


def _as_json(comparison: Comparison, page: Path) -> dict[str, Any]:
    from hf_cl.results.comparison import DDOF  # noqa: PLC0415
    from hf_cl.results.paired import paired_differences  # noqa: PLC0415

    groups = [
        {
            "label": group.label,
            "method": group.method,
            "runs": [str(run.folder) for run in group.runs],
            "seeds": group.seeds,
            "kept_images": [run.results.kept_images for run in group.runs],
            "metrics": {name: _spread(group.metric(name)) for name in comparison.metrics},
        }
        for group in comparison.groups
    ]
    paired = [
        {
            "first": pair.first,
            "second": pair.second,
            "metric": pair.metric,
            "differences": list(pair.differences),
            "mean": pair.mean,
            "interval": pair.interval,
            "sign_test": pair.sign_test,
        }
        for pair in paired_differences(comparison)
    ]
    common = {"protocol": comparison.protocol, "across": comparison.across, "ddof": DDOF}
    return common | {"groups": groups, "paired": paired, "page": str(page)}


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else {"mean": spread.mean, "std": spread.std, "values": list(spread.values)}


def _print(comparison: Comparison, page: Path) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hf_cl.results.comparison_page import comparison_remarks, number_text  # noqa: PLC0415
    from hf_cl.results.display import display_name  # noqa: PLC0415

    table = Table(box=box.SIMPLE, pad_edge=False, title="percent, mean over runs ± standard deviation (n - 1)", title_justify="left")
    table.add_column("", no_wrap=True)
    for group in comparison.groups:
        table.add_column(Text(display_name(group.label)), justify="right")
    table.add_row("runs", *(str(len(group.runs)) for group in comparison.groups))
    table.add_row("exemplars", *(group.kept_images for group in comparison.groups))
    for name in comparison.metrics:
        table.add_row(Text(display_name(name)), *(number_text(group, name) for group in comparison.groups))
    console = Console()
    # as wide as its numbers: a number that is cut off says something else
    Console(width=max(console.width, Measurement.get(console, console.options.update(width=1000), table).maximum)).print(table)
    for sentence in comparison_remarks(comparison):
        console.print(Text(sentence))
    typer.echo(f"Page {page}")
