"""The command `hf-cl` itself; each subcommand is a file beside this one, and imports torch only when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

app = typer.Typer(
    epilog="Exit status: 0 where all went well, 2 for a mistake in what was asked, with a sentence that says which; 1 where `data` has "
    "found what it was to fail on.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # under "rich" square brackets are markup, and `.[app]` would lose its extra
    context_settings={"help_option_names": ["-h", "--help"]},
)
TRAIN, USE, LOOK, SHARE = "Train", "Use an adapter", "Look at runs and parts", "Hand on"
"""Headings of the commands' list."""

AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output: one JSON value on standard output, and nothing else there")]

Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="FILE_OR_MODULE", help="a file or module with parts of your own that the adapter needs; repeatable"),
]


def _print_version(asked: bool) -> None:
    if asked:
        import hf_cl  # noqa: PLC0415

        typer.echo(f"hf-cl {hf_cl.__version__}")
        raise typer.Exit(0)


@app.callback()
def command(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Continual fine-tuning for Hugging Face: train, load and use adapters whose classes keep arriving."""


def mistake(message: str) -> typer.Exit:
    """Tell a user what was wrong; raise what this returns (exit status 2)."""
    from hf_cl.results.display import printable  # noqa: PLC0415 (help must not wait for torch)
    from hf_cl.secrets import without_secrets  # noqa: PLC0415

    typer.echo(f"hf-cl: {printable(without_secrets(message))}", err=True)
    return typer.Exit(2)


def early_mistake(message: str) -> typer.Exit:
    """As `mistake`, of what the user has typed or set himself, and before anything loads torch: what `mistake` guards with would."""
    typer.echo(f"hf-cl: {message}", err=True)
    return typer.Exit(2)


@contextmanager
def mistakes_in_a_line() -> Iterator[None]:
    """What a user did wrong, or the machine refuses, as a sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise mistake(str(error)) from error


def print_json(value: Any) -> None:
    """One JSON value on standard output; letters that its encoding lacks as JSON escapes."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not writes_every_letter(), allow_nan=False))


def writes_every_letter() -> bool:
    """Whether standard output takes any text."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
