"""The command line `hf-cl`: importing this package registers every subcommand, in the order in which help lists them."""

from __future__ import annotations

# isort: off
from hf_cl.cli import data, train, sweep, tune, ensemble, demo
from hf_cl.cli import predict, evaluate, app_page
from hf_cl.cli import report, compare, list_, env
from hf_cl.cli import push, export, compress, classes

# isort: on
from hf_cl.cli.app import app
from hf_cl.results.display import escape_missing_letters


def main() -> None:
    """Entry point of the command `hf-cl`."""
    escape_missing_letters()
    app(prog_name="hf-cl")
