"""`hf-cl train`: any method by name."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_cl.cli.app import app, mistake

_ANY_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_ANY_FLAGS)
def train(context: typer.Context, method: Annotated[str, typer.Argument(help="ovor, ...")]) -> None:
    """Train a method: `hf-cl train ovor --config demo --output_dir runs/x`; `hf-cl train ovor --help` lists its settings."""
    from hf_cl.hints import nearest  # noqa: PLC0415
    from hf_cl.methods import METHODS  # noqa: PLC0415 (help must not wait for torch)
    from hf_cl.run import launch, run  # noqa: PLC0415

    if method in ("-h", "--help"):
        typer.echo(f"usage: hf-cl train METHOD --config NAME_OR_FILE [--key value ...]\n\nMETHOD: {', '.join(METHODS)}\n")
        typer.echo("`hf-cl train METHOD --help` lists the configs and settings of one.")
        raise typer.Exit(0)
    if method not in METHODS:
        raise mistake(f"Unknown method {method!r}.{nearest(method, METHODS)} Known: {', '.join(sorted(METHODS))}.")
    raise typer.Exit(launch(run, METHODS[method], method, context.args))
