"""`hf-cl sweep`: a study of many runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hf_cl.cli.app import TRAIN, app, mistakes_in_a_line

if TYPE_CHECKING:
    from hf_cl.settings import RunSettings
    from hf_cl.tuning.arguments import Arguments
    from hf_cl.tuning.study import Study


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="METHOD... [OPTIONS] [FLAGS OF hf-cl train]",
    rich_help_panel=TRAIN,
)
def sweep(context: typer.Context) -> None:
    """Train methods x seeds x class orders x settings, and compare them: `hf-cl sweep ovor lora --config demo --seeds 0 1 2`.

    The methods and every flag that is none of these are those of `hf-cl train`, for all runs.

    - `--seeds 0 1 2`, `--class_orders 0 1 2` (with `--class_order seed`), `--grid learning_rate=1e-3,3e-4 ...`: the axes.
    - `--output_dir DIR`: the study's folder, with a run folder for each (runs/study).
    - `--jobs N`: runs at a time (1).
    - `--engine local`, `slurm` or `ray`: where they run, with `--option KEY=VALUE ...`.
    - `--status`: a table of states, and no run.

    The same command goes on with what is not done.
    """
    from hf_cl.tuning import ENGINES, write_study  # noqa: PLC0415
    from hf_cl.tuning.arguments import parse  # noqa: PLC0415
    from hf_cl.tuning.study import read_state, read_study  # noqa: PLC0415

    with mistakes_in_a_line():
        arguments = parse(context.args)
        if arguments.status:
            _print_states(read_study(arguments.output_dir))
            raise typer.Exit(0)
        if arguments.engine not in ENGINES:
            raise ValueError(f"Unknown engine {arguments.engine!r}. Known: {', '.join(ENGINES)}.")
        study = _checked(arguments)
        write_study(study)
        waiting = [job.name for job in study.jobs if read_state(study.folder, job.name) != "done"]
        done = len(study.jobs) - len(waiting)
        typer.echo(f"{len(waiting)} runs to go, {done} done; their states: hf-cl sweep --status --output_dir {study.folder}")
        with _telling(study, waiting):
            ENGINES[arguments.engine](study.folder, waiting, arguments.jobs, arguments.options)
    _print_states(study)
    _finish(study)


@contextmanager
def _telling(study: Study, waiting: list[str]) -> Iterator[None]:
    """A line for each run that ends, while an engine has this thread."""
    from hf_cl.tuning.study import ended_since, progress  # noqa: PLC0415

    began, over, told = time.time(), threading.Event(), set[str]()

    def look() -> None:
        for name in waiting:
            if name in told or (state := ended_since(study.folder, name, began)) is None:
                continue
            told.add(name)
            _, accuracy, _ = progress(study.folder, name)
            shown = f", accuracy {100 * accuracy:.2f}" if state == "done" and accuracy is not None else ""
            typer.echo(f"{len(told)} of {len(waiting)}: {name} {state} after {(time.time() - began) / 60:.1f} min{shown}")

    def watch() -> None:
        while not over.wait(1.0):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()


def _checked(arguments: Arguments) -> Study:
    """The study, once every run's settings and the data are known to be good. Raises ValueError with all that is not."""
    from hf_cl.methods import METHODS  # noqa: PLC0415
    from hf_cl.run import open_scenario, parse_settings  # noqa: PLC0415
    from hf_cl.run.elsewhere import method_hint  # noqa: PLC0415
    from hf_cl.run.first_checks import order_of_classes  # noqa: PLC0415
    from hf_cl.run.own_pictures import with_config  # noqa: PLC0415
    from hf_cl.scenarios.class_order import DRAWN_ORDERS  # noqa: PLC0415
    from hf_cl.tuning.study import plan, read_state  # noqa: PLC0415

    if not arguments.methods:
        raise ValueError(f"Name the methods of the study first: hf-cl sweep ovor lora ... Known: {', '.join(sorted(METHODS))}.")
    for method in arguments.methods:
        if method not in METHODS:
            raise ValueError(f"Unknown method {method!r}.{method_hint(method, METHODS)} Known: {', '.join(sorted(METHODS))}.")
    axes = {"seeds": arguments.seeds, "class_orders": arguments.class_orders, "grid": arguments.grid}
    study = plan(arguments.output_dir, arguments.methods, arguments.flags, **axes)  # pyright: ignore[reportArgumentType]
    settings: list[RunSettings] = []
    faults: dict[str, list[str]] = {}  # what is wrong -> the runs in which it is
    for job in study.jobs:
        try:
            flags = with_config(job.method, job.flags, lambda said: None)  # each run says so itself
            parsed = parse_settings(METHODS[job.method], job.method, flags)
            parsed.method()
            settings.append(parsed)
            if arguments.class_orders and (order := order_of_classes(parsed)) not in (None, *DRAWN_ORDERS):
                raise ValueError(_no_order_drawn(order, arguments.class_orders))
        except ValueError as error:
            faults.setdefault(str(error), []).append(job.name)
    if faults:
        raise ValueError("\n".join(f"{_where(names, len(study.jobs))}{fault}" for fault, names in faults.items()))
    if any(read_state(study.folder, job.name) != "done" for job in study.jobs):
        open_scenario(settings[0])  # a picture that cannot be read is said once, not by every run
    return study


def _no_order_drawn(order: str | None, seeds: list[int]) -> str:
    return (
        f"--class_orders {' '.join(map(str, seeds))}: the order of the classes is {order!r} here, by the config or the protocol, and no "
        "seed moves it. Add --class_order seed; or, where splits and shots alone are to be drawn anew, say "
        f"--grid class_order_seed={','.join(map(str, seeds))} instead."
    )


def _where(names: list[str], jobs: int) -> str:
    """The runs that have a fault, before its sentence; nothing where all have it."""
    if len(names) == jobs:
        return ""
    return f"{names[0]}: " if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: "


def _print_states(study: Study) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from hf_cl.tuning.study import progress, read_state  # noqa: PLC0415

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("run", overflow="fold")
    for column in ("state", "sessions", "accuracy", "last sign"):
        table.add_column(column, justify="right", no_wrap=True)
    for job in study.jobs:
        sessions, accuracy, written = progress(study.folder, job.name)
        ago = "" if written is None else f"{(time.time() - written) / 60:.0f} min ago"
        shown = "" if accuracy is None else f"{100 * accuracy:.2f}"
        table.add_row(job.name, read_state(study.folder, job.name), str(sessions), shown, ago)
    Console().print(table)


def _finish(study: Study) -> None:
    """The table of `hf-cl compare` where all is done; what is not, otherwise. Exit status 2 where a run failed."""
    from hf_cl.cli.compare import compare  # noqa: PLC0415
    from hf_cl.tuning.study import read_state  # noqa: PLC0415

    states = {job.name: read_state(study.folder, job.name) for job in study.jobs}
    failed = [name for name, state in states.items() if state == "failed"]
    for name in failed:
        lines = (study.folder / "output" / f"{name}.txt").read_text(errors="replace").splitlines()
        typer.echo(f"{name} failed: {lines[-1] if lines else 'without a word'} ({study.folder / 'output' / name}.txt)", err=True)
    finished: list[Path] = [study.folder / name for name, state in states.items() if state == "done"]
    if len(finished) == len(states):
        compare(runs=finished, across=list(study.across), metric=None, output=study.folder / "compare.html", latex=False, as_json=False)
    raise typer.Exit(2 if failed else 0)
