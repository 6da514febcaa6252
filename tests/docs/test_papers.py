"""Every paper of the founding list has one row; what a row names is registered, and its command is one that parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from hf_cl.cli import app
from hf_cl.heads import HEADS
from hf_cl.losses import LOSSES
from hf_cl.methods import METHODS
from hf_cl.parts import PARTS
from hf_cl.probes import PROBES
from hf_cl.rules import RULES
from hf_cl.run import config_names, parse_settings, setting_docs
from hf_cl.scenarios import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
HERE, LATER = PAGE.read_text().split("## What is not here yet")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in HERE.splitlines() if re.match(r"\| \d+ \|", line)]
KNOWN = {*HEADS, *LOSSES, *METHODS, *PARTS, *PROBES, *RULES, *SCENARIOS}
COMMANDS = {f"hf-cl {name}": command for name, command in getattr(typer.main.get_command(app), "commands").items()}  # noqa: B009
OPTIONS = {parameter.name for command in COMMANDS.values() for parameter in command.params}
SETTINGS = {field.name for settings in METHODS.values() for field in setting_docs(settings)}


def test_each_of_the_48_papers_has_one_row():
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)]
    assert sorted(numbers) == list(range(1, 49))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_a_row_names_is_here(row):
    _, _, name, _, numbers, status, command = row
    words = set(re.findall(r"`([^`]+)`", name))
    configs = {config for method in METHODS for config in config_names(method)}
    assert words and words <= KNOWN | SETTINGS | configs | COMMANDS.keys() | OPTIONS, words
    assert numbers and status in ("recommended", "situational", "tried and not recommended")
    _, subcommand, *arguments = shlex.split(command.strip("` |"))
    if subcommand == "train":
        method, *arguments = arguments
        assert parse_settings(METHODS[method], method, arguments).method().name
    else:
        assert COMMANDS[f"hf-cl {subcommand}"].make_context(subcommand, arguments)
