"""The command line `hf-cl`: importing this package registers every subcommand."""

from __future__ import annotations

from hf_cl.cli import app_page, compare, demo, env, evaluate, export, list_, predict, push, report, train
from hf_cl.cli.app import app
from hf_cl.results.display import escape_missing_letters


def main() -> None:
    """Entry point of the command `hf-cl`."""
    escape_missing_letters()
    app(prog_name="hf-cl")
