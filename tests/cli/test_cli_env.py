import json
import re

import pytest
import torch

from hf_cl.cli import env


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 30)


def test_the_facts(call, secret):
    facts = json.loads(call("env", "--json").stdout)
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "hf-cl", "transformers", "peft", "accelerate", "datasets", "gradio"} <= facts["versions"].keys()
    assert "cores" in facts["devices"]["cpu"] and len(facts["devices"]) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()
    assert facts["cache"]["folder"] and re.fullmatch(r"\d+ GB", facts["cache"]["free"])
    assert facts["token"]["token"] == "found"


def test_the_token_is_never_shown(call, secret):
    for flags in ([], ["--json"]):
        assert "ssss" not in call("env", *flags).output


def test_what_is_missing_says_how_to_get_it(call, monkeypatch):
    monkeypatch.setitem(env.EXTRAS, "no-such-distribution", ("a dream", "pip install no-such-distribution"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    missing = " ".join(call("env").stdout.split("missing")[1].split())
    assert "no-such-distribution is not installed: a dream needs it (pip install no-such-distribution)." in missing
    assert "No token of the Hub" in missing


def test_people_get_tables(call):
    shown = call("env")
    assert shown.exit_code == 0
    assert [part for part in ("versions", "devices", "cache", "token", "missing") if part in shown.stdout] == [
        "versions", "devices", "cache", "token", "missing",
    ]  # fmt: skip
