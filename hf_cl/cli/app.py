"""The command `hf-cl` itself; each subcommand is a file beside this one, and imports torch only when it runs."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Continual fine-tuning for Hugging Face: train, load and use adapters whose classes keep arriving.", no_args_is_help=True
)


def mistake(message: str) -> typer.Exit:
    """Tell a user what was wrong; raise what this returns (exit status 2)."""
    typer.echo(f"hf-cl: {message}", err=True)
    return typer.Exit(2)
