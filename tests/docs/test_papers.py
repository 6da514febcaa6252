"""Every paper of the founding list has one row; what a row names is registered, its command parses, and a row without code has a page."""

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
from hf_cl.own_parts import import_parts
from hf_cl.parts import PARTS
from hf_cl.probes import PROBES
from hf_cl.rules import RULES
from hf_cl.run import config_names, parse_settings, setting_docs
from hf_cl.scenarios import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
HERE, TRIED = PAGE.read_text().split("## Tried, without code")


def rows_of(section: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if re.match(r"\| \d+ \|", line)]


COMMANDS = {f"hf-cl {name}": command for name, command in getattr(typer.main.get_command(app), "commands").items()}  # noqa: B009
OPTIONS = {parameter.name for command in COMMANDS.values() for parameter in command.params}
SETTINGS = {field.name for settings in METHODS.values() for field in setting_docs(settings)}


def test_each_of_the_48_papers_has_one_row():
    numbers = [int(row[0]) for section in (HERE, TRIED) for row in rows_of(section)]
    assert sorted(numbers) == list(range(1, 49))


@pytest.mark.parametrize("row", rows_of(HERE), ids=lambda row: row[0])
def test_what_a_row_names_is_here(row):
    _, _, name, whom, cost, numbers, status, command = row
    _, subcommand, *arguments = shlex.split(command.strip("` |"))
    if subcommand == "train":
        method, *arguments = arguments
        settings = parse_settings(METHODS[method], method, arguments)
        import_parts(settings.imports)
        assert settings.method().name and {*settings.probes} <= PROBES.keys()
    else:
        assert COMMANDS[f"hf-cl {subcommand}"].make_context(subcommand, arguments)
    words = set(re.findall(r"`([^`]+)`", name))
    known = {*HEADS, *LOSSES, *METHODS, *PARTS, *PROBES, *RULES, *SCENARIOS}
    configs = {config for method in METHODS for config in config_names(method)}
    assert words and words <= known | SETTINGS | configs | COMMANDS.keys() | OPTIONS, words
    assert whom and cost and numbers and status in ("recommended", "situational", "tried and not recommended")


@pytest.mark.parametrize("row", rows_of(TRIED), ids=lambda row: row[0])
def test_a_row_without_code_has_its_page_with_the_measurement(row):
    _, _, kernel, whom, numbers, page = row
    assert kernel and whom and re.search(r"\d", numbers)
    (path, anchor) = re.findall(r"\]\((\w+\.md)#([\w-]+)\)", page)[0]
    text = (PAGE.parent / path).read_text()
    sections = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): body
        for title, body in re.findall(r"^#+ ([^\n]+)\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    }
    assert re.search(r"\d", sections[anchor]), anchor
