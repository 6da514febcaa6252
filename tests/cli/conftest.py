"""The command line as a user calls it, in this process."""

import shutil

import pytest
from trained_run import train_digits
from typer.testing import CliRunner

from hf_cl.cli import app


@pytest.fixture
def call():
    """`call("compare", folder)` -> the result with `exit_code`, `stdout`, `stderr`."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def trained(once, tmp_path_factory):
    """A run folder with two sessions of digits."""
    return shutil.copytree(once("digits", train_digits), tmp_path_factory.mktemp("trained") / "run")
