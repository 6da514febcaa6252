"""Whoever comes from another toolbox and types its words is told the words of here, and these work."""

from __future__ import annotations

import shlex
from dataclasses import fields

import pytest
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.methods import METHODS, LoraSettings
from hf_cl.run import elsewhere, parse_settings


def test_every_setting_that_is_named_instead_is_one():
    known = {setting.name for setting in fields(LoraSettings)}
    assert not known & elsewhere.SETTINGS.keys()
    for name in elsewhere.SETTINGS:
        assert elsewhere.setting_hint(name, known).startswith(" Here it is --"), name


@pytest.mark.parametrize("said", [*dict.fromkeys(elsewhere.METHODS.values())])
def test_every_method_that_is_named_instead_is_one(said):
    method, *flags = shlex.split(said)
    assert not METHODS.keys() & elsewhere.METHODS.keys()
    parse_settings(METHODS[method], method, flags).method()


@pytest.mark.parametrize("said", [said for said in elsewhere.SETTINGS.values() if said.startswith("--memory")])
def test_every_memory_that_is_named_instead_is_one(said):
    flags = ["--adapt_sessions", "all", "--head", "{type: linear}", *shlex.split(said.partition(", or")[0])]
    assert parse_settings(LoraSettings, "lora", flags).method().memory is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora", "--lr", "0.1"], "Unknown setting 'lr' (--lr). Here it is --learning_rate."),
        (["lora", "--n_epochs", "1", "--buffer_size", "200"], "(--buffer_size). Here it is --memory '{type: exemplars, total: 200}', or"),
        (["lora", "--n-tasks", "5"], "Here it is --num_base_classes and --classes_per_session: sessions are said by"),
        (["frozen", "--lr", "0.1"], "Unknown setting 'lr' (--lr).\n"),  # it trains nothing
        (["er"], "Unknown method 'er'. Here it is `hf-cl train compose --config er`."),
        (["LwF"], "Here it is `hf-cl train compose --config prediction_distillation`."),
        (["frozn"], "Did you mean 'frozen'?"),
    ],
)
def test_words_of_other_toolboxes(words, told):
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2 and told in result.stderr
