"""One version, and bounds that the page on versions repeats."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hf_cl

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds(specifiers: SpecifierSet) -> tuple[str, str]:
    """Lowest version, and the first one that is not allowed."""
    by_operator = {specifier.operator: specifier.version for specifier in specifiers}
    return by_operator.get(">=", "-"), by_operator.get("<", "-")


def test_the_page_of_versions_has_the_bounds_of_the_project():
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+|-) \| ([\d.]+|-) \| .+ \|$", (ROOT / "docs" / "versions.md").read_text(), re.MULTILINE)
    said = {name: (lowest, below) for name, lowest, below in rows}
    requirements = [Requirement(line) for line in PROJECT["dependencies"]]
    expected = {requirement.name: bounds(requirement.specifier) for requirement in requirements}
    assert said == {"Python": bounds(SpecifierSet(PROJECT["requires-python"])), **expected}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_has_a_floor_and_the_installed_one_is_allowed(line):
    requirement = Requirement(line)
    assert bounds(requirement.specifier)[0] != "-"
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


def test_the_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hf_cl.__version__
