"""Every method has a recipe, which says in comments what the loop does with it."""

from __future__ import annotations

import importlib.util
import re
import shlex
from dataclasses import fields
from pathlib import Path
from unittest.mock import Mock

import pytest

from hf_cl.methods import METHODS
from hf_cl.run import parse_settings

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = {"gaussian"}
"""In backticks, and no setting."""


def test_every_method_has_a_recipe():
    assert {path.stem for path in RECIPES.glob("*.py")} == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_teaches_its_method(name, monkeypatch):
    path = RECIPES / f"{name}.py"
    text = path.read_text()
    outline = re.findall(r"^    #   (.+)$", text, re.MULTILINE)
    assert len(outline) >= 4 and outline[0].startswith(("grow", "session 0")) and outline[-1].startswith("test: ")
    settings = {field.name for field in fields(METHODS[name])}
    said = {word.split(":")[0] for word in re.findall(r"`([^`]+)`", "\n".join(outline))}
    assert said <= settings | WORDS, "a setting that the method does not have"
    commands = re.findall(r"^    (accelerate launch .+)$", text, re.MULTILINE)
    assert len(commands) == 2
    monkeypatch.chdir(RECIPES.parent)
    for command in commands:
        words = shlex.split(command)
        assert words[2] == f"recipes/{name}.py"
        assert isinstance(parse_settings(METHODS[name], name, words[3:]), METHODS[name])


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_answers_as_the_command_does(name, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    given = {}
    monkeypatch.setattr(recipe, "open_base", lambda settings, method: given.update(name=method.name) or (None, None, None))
    monkeypatch.setattr(recipe, "open_scenario", lambda settings: given.update(settings=settings))
    monkeypatch.setattr(recipe, "ContinualTrainer", lambda *positional, **named: given.update(named) or Mock())
    settings = parse_settings(METHODS[name], name, ["--config", "demo", "--output_dir", "unused"])
    recipe.main(settings)
    assert given["name"] == name and given["settings"] is settings and "tokenizer" in given
