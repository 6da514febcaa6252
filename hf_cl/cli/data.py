"""`hf-cl data`: a data set before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_cl.cli.app import TRAIN, AsJson, app, mistakes_in_a_line, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from hf_cl.data_check.report import DataReport
    from hf_cl.settings import RunSettings

SHOWN = 10
"""Rows of each table on the screen."""
FAULTS = ("leaks", "labels")
"""What may be named as a reason for exit status 1."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, rich_help_panel=TRAIN)
def data(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="what `hf-cl train --dataset` takes: a folder of images, a Hub id, digits, ...")],
    fast: Annotated[bool, typer.Option("--fast", help="look for exact copies alone: no model runs")] = False,
    difficulty: Annotated[bool, typer.Option("--difficulty", help="also say how many nats a method must bring to each session")] = False,
    against: Annotated[str | None, typer.Option(metavar="DATASET", help="another data set: how much of this one is in it")] = None,
    sample: Annotated[int, typer.Option(help="test pictures looked at for near copies, where there are more")] = 5000,
    foreign_limit: Annotated[
        float, typer.Option("--foreign_limit", "--foreign-limit", help="share of test pictures that may have a near copy of another class")
    ] = 0.005,
    write_exclude: Annotated[
        Path | None,
        typer.Option("--write_exclude", "--write-exclude", metavar="FILE", help="write what to leave out, for hf-cl train --exclude FILE"),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail_on",
            "--fail-on",
            metavar="leaks|labels",
            help="exit status 1 where a test picture is trained on (leaks), or one picture has several labels (labels); repeatable",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a data set before training: copies and leaks, labels that look wrong, classes that will be confused, hard sessions.

    `hf-cl data ./my_photos --output_dir runs/data` prints what it finds and writes data.html, with the pictures, and data.json. All flags
    of `hf-cl train` that say which data, sessions and base are taken: --backbone (demo where none is named), --classes_per_session,
    --class_order, --label_column, ...; --output_dir (runs/data) is for the two files and the features. Nothing is changed.
    """
    from hf_cl.data_check import Options, check_data  # noqa: PLC0415
    from hf_cl.data_check.page import as_json as report_json  # noqa: PLC0415
    from hf_cl.data_check.page import write_files  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        for kind in fail_on or ():
            if kind not in FAULTS:
                raise ValueError(f"--fail_on takes {' or '.join(FAULTS)}, got {kind!r}.")
        options = Options(fast=fast, sample=sample, foreign_limit=foreign_limit, difficulty=difficulty, against=against)
        settings = _settings(dataset, context.args)
        found = check_data(settings, options, quiet=as_json)
        page, numbers = write_files(Path(settings.output_dir), found)
        report = found.report
        if write_exclude is not None:
            _write_exclude(write_exclude, report)
    if as_json:
        print_json(report_json(report))
    else:
        _print(report, page, numbers, write_exclude)
    raise typer.Exit(1 if _fails(report, fail_on or ()) else 0)


def _fails(report: DataReport, kinds: Sequence[str]) -> bool:
    return ("leaks" in kinds and report.leaked + report.nearly_leaked > 0) or ("labels" in kinds and report.two_labels > 0)


def _settings(dataset: str, arguments: list[str]) -> RunSettings:
    """Those of the run that would train on the data: sessions as `hf-cl train` makes them, on `demo` unless a base is named."""
    from hf_cl.methods.frozen import FrozenSettings  # noqa: PLC0415
    from hf_cl.run.own_pictures import with_config  # noqa: PLC0415
    from hf_cl.run.parse import parse_flags, parse_settings  # noqa: PLC0415

    if dataset.startswith("-"):
        raise ValueError("Name the data set first: hf-cl data ./my_photos ...")
    given = [f"--dataset={dataset}", *arguments]
    flags = parse_flags(given)
    base = [] if "backbone" in flags else ["--backbone", "demo"]
    folder = Path(str(flags.get("output_dir", "runs/data")))
    kept = [] if "feature_cache" in flags else [f"--feature_cache={folder / 'features'}"]
    return parse_settings(
        FrozenSettings, "frozen", [*with_config("frozen", given, lambda said: None), *base, *kept, f"--output_dir={folder}"]
    )


def _write_exclude(path: Path, report: DataReport) -> None:
    """The pictures to leave out, and as remarks those whose label is in doubt, for a reader to decide."""
    from hf_cl.data_check import left_out  # noqa: PLC0415
    from hf_cl.results.atomic_write import write_atomically  # noqa: PLC0415
    from hf_cl.scenarios.exclude import line_of  # noqa: PLC0415

    lines = ["# Pictures to leave out: hf-cl train METHOD --exclude FILE. A name a line; what stands behind the tab is for you.\n"]
    lines += [line_of(picture.name, why) for picture, why in left_out(report)]
    gone = {picture.name for picture, _ in left_out(report)}
    if suspects := [one for one in report.suspects if one.picture.name not in gone]:
        lines.append("# Labels to look at. Take the # away where the label is wrong and cannot be mended.\n")
        lines += [f"# {line_of(one.picture.name, f'{one.picture.label}? looks like {one.suggested}')}" for one in suspects]
    write_atomically(path, "".join(lines))


def _print(report: DataReport, page: Path, numbers: Path, excluded: Path | None) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hf_cl.data_check import left_out  # noqa: PLC0415
    from hf_cl.data_check.report import summary  # noqa: PLC0415
    from hf_cl.results.display import display_name, printable  # noqa: PLC0415

    console = Console()
    words = {"train": "training", "validation": "validation", "test": "test"}
    counts = ", ".join(f"{count} {words[part]}" for part, count in report.counts.items())
    console.print(Text(f"{display_name(report.dataset)}: {report.classes} classes, pictures: {counts}", style="bold"), soft_wrap=True)
    for sentence in summary(report):
        console.print(Text(f"- {printable(sentence)}"), soft_wrap=True)
    _print_tables(console, report)
    if excluded is not None:
        console.print(Text(f"{len(left_out(report))} pictures to leave out: hf-cl train METHOD --exclude {excluded}"), soft_wrap=True)
    console.print(Text(f"Page {page}, numbers {numbers}"), soft_wrap=True)


def _print_tables(console: Console, report: DataReport) -> None:
    from hf_cl.results.display import percent  # noqa: PLC0415

    groups = [
        [" = ".join(f"{one.name} ({one.label}, {one.part})" for one in group.pictures[:3]), "pixel by pixel" if group.exact else "nearly"]
        for group in report.groups[:SHOWN]
    ]
    _table(console, "the same picture", ["names", "how"], groups)
    suspects = [[one.picture.name, one.picture.label, one.suggested, f"{one.suspicion:.2f}"] for one in report.suspects[:SHOWN]]
    _table(console, "labels to look at", ["picture", "label", "looks like", "by"], suspects)
    alike = [[one.first, one.second, " and ".join(map(str, sorted({*one.sessions}))), f"{one.cosine:.2f}"] for one in report.alike[:SHOWN]]
    _table(console, "classes that will be confused", ["class", "and", "sessions", "cosine"], alike)
    nats = any(one.nats is not None for one in report.sessions)
    sessions = [
        [str(one.session), str(one.known_classes), str(one.pictures), percent(one.accuracy), *([f"{one.nats or 0:.1f}"] if nats else [])]
        for one in report.sessions
    ]
    _table(console, "how hard each session is", ["session", "classes", "pictures", "accuracy, %", *(["nats"] if nats else [])], sessions)


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hf_cl.results.display import display_name  # noqa: PLC0415

    if not rows:
        return
    table = Table(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(
            column, overflow="fold", justify="right" if column in ("by", "cosine", "pictures", "accuracy, %", "nats") else "left"
        )
    for row in rows:
        table.add_row(*(Text(display_name(cell, 200)) for cell in row))
    console.print(table)
