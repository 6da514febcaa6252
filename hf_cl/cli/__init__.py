"""The command line `hf-cl`: importing this package registers every subcommand."""

from __future__ import annotations

from hf_cl.cli import app_page, compare, demo, env, evaluate, export, list_, predict, push, report, sweep, train
from hf_cl.cli.app import app


def main() -> None:
    """Entry point of the command `hf-cl`."""
    app(prog_name="hf-cl")
