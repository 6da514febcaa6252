"""`hf-cl train`: any method by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from hf_cl.cli.app import TRAIN, app, early_mistake
from hf_cl.cli.complete import TrainCommand, complete_methods

_ANY_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(cls=TrainCommand, context_settings=_ANY_FLAGS, rich_help_panel=TRAIN)
def train(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="ovor, ...", autocompletion=complete_methods)],
) -> None:
    """Train a method: `hf-cl train ovor --config demo --output_dir runs/x`; `hf-cl train ovor --help` lists its settings."""
    from hf_cl.run.launch import launch, status_of  # noqa: PLC0415 (help must not wait for pydantic)

    arguments = list(context.args)
    imports = _imports(arguments)
    if method in ("-h", "--help"):
        _print_usage(imports)
        raise typer.Exit(0)
    status = _told_early(method, arguments, imports)
    if status is not None:
        raise typer.Exit(status)

    from hf_cl.methods import METHODS  # noqa: PLC0415
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.run.runs import run  # noqa: PLC0415

    if status := status_of(lambda: import_parts(imports)):
        raise typer.Exit(status)
    if method not in METHODS:
        raise early_mistake(_unknown(method, METHODS))
    raise typer.Exit(launch(run, METHODS[method], method, arguments))


def _told_early(method: str, arguments: Sequence[str], imports: Sequence[str]) -> int | None:
    """The exit status where all can be said without torch: help, and what is mistyped. None: go on."""
    from hf_cl.own_parts import announced  # noqa: PLC0415
    from hf_cl.run import early  # noqa: PLC0415
    from hf_cl.run.describe import HELP, print_help  # noqa: PLC0415
    from hf_cl.run.launch import status_of  # noqa: PLC0415
    from hf_cl.run.own_pictures import with_config  # noqa: PLC0415
    from hf_cl.run.parse import parse_settings  # noqa: PLC0415
    from hf_cl.run.source import NotReadableError  # noqa: PLC0415

    try:
        known = early.method_names(imports)
        if method not in known:
            if imports or announced():  # what registers a method in a way that only running it shows
                return None
            raise early_mistake(_unknown(method, known))
        settings_class = early.settings_class(method, imports)
        if settings_class is None:
            return None
        if set(HELP) & set(arguments):
            return status_of(lambda: print_help(settings_class, method, arguments, f"hf-cl train {method}"))

        def look() -> None:
            given = with_config(method, arguments, say=lambda sentence: None)
            early.check_names(parse_settings(settings_class, method, given))

        return status_of(look) or None
    except (NotReadableError, NameError):  # a check of the settings calls what the reading left out
        return None


def _unknown(method: str, known: Collection[str]) -> str:
    from hf_cl.run.elsewhere import method_hint  # noqa: PLC0415

    own = " A method of your own comes with --import FILE."
    return f"Unknown method {method!r}.{method_hint(method, known)} Known: {', '.join(sorted(known))}.{own}"


def _imports(arguments: Sequence[str]) -> list[str]:
    """The values of `--import`, before the settings are parsed: they say which methods there are."""
    from hf_cl.run.parse import parse_flags  # noqa: PLC0415

    try:
        return parse_flags(arguments).get("imports", [])
    except ValueError:  # said in a moment, with everything else
        return []


def _print_usage(imports: Sequence[str]) -> None:
    from hf_cl.run.early import method_names  # noqa: PLC0415

    typer.echo(f"usage: hf-cl train METHOD --config NAME_OR_FILE [--key value ...]\n\nMETHOD: {', '.join(method_names(imports))}\n")
    typer.echo("`hf-cl train METHOD --help` lists the configs and settings of one, `hf-cl list methods` says what each is.")
