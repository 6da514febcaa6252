"""The command line `hf-cl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Continual fine-tuning for Hugging Face: train, load and use adapters whose classes keep arriving.", no_args_is_help=True
)

_ANY_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_ANY_FLAGS)
def train(context: typer.Context, method: Annotated[str, typer.Argument(help="ovor, ...")]) -> None:
    """Train a method: `hf-cl train ovor --config demo --output_dir runs/x`; `hf-cl train ovor --help` lists its settings."""
    from hf_cl.methods import METHODS  # noqa: PLC0415 (help must not wait for torch)
    from hf_cl.run import launch, nearest, run  # noqa: PLC0415

    if method in ("-h", "--help"):
        typer.echo(f"usage: hf-cl train METHOD --config NAME_OR_FILE [--key value ...]\n\nMETHOD: {', '.join(METHODS)}\n")
        typer.echo("`hf-cl train METHOD --help` lists the configs and settings of one.")
        raise typer.Exit(0)
    if method not in METHODS:
        raise _mistake(f"Unknown method {method!r}.{nearest(method, METHODS)} Known: {', '.join(sorted(METHODS))}.")
    raise typer.Exit(launch(run, METHODS[method], method, context.args))


@app.command()
def predict(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, or run folder (its last session)")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    top_k: Annotated[int, typer.Option("--top_k", "--top-k", help="classes per image")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable output")] = False,
) -> None:
    """Name what is in images."""
    from hf_cl.hub.load import load  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    try:
        predictions = load(adapter, revision=revision).predict(images, top_k=top_k)
    except ValueError as error:
        raise _mistake(str(error)) from error
    if as_json:
        rows = {str(image): {p.name: p.score for p in best} for image, best in zip(images, predictions, strict=True)}
        typer.echo(json.dumps(rows, indent=2))
        return
    for image, best in zip(images, predictions, strict=True):
        typer.echo(f"{image}: " + ", ".join(f"{p.name} {100 * p.score:.1f} %" for p in best))


@app.command()
def demo(output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", help="the run folder")] = Path("runs/demo")) -> None:
    """Five sessions of real images with one small adapter, then its reload in a fresh process. No network."""
    from hf_cl.demo import run_demo  # noqa: PLC0415

    run_demo(output_dir)


def _mistake(message: str) -> typer.Exit:
    typer.echo(f"hf-cl: {message}", err=True)
    return typer.Exit(2)


def main() -> None:
    """Entry point of the command `hf-cl`."""
    app(prog_name="hf-cl")


if __name__ == "__main__":
    sys.exit(main())
