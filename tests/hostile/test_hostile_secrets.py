"""Tokens: not in the run folder, not in messages, and refused as settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_cases import cases
from hypothesis import given
from hypothesis import strategies as st
from loop_case import build

from hf_cl.methods import OvorSettings
from hf_cl.run import launch, parse_settings
from hf_cl.secrets import without_secrets
from hf_cl.settings import TrainingSettings

TOKEN = "hf_" + "CanaryOfTheHub" * 3
TRACKER = "0123456789abcdef" * 2 + "canarywb"
SECRETS = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": TRACKER, "MY_PASSWORD": "correct horse battery"}


@pytest.fixture
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_a_run_writes_no_secret_of_its_environment(tmp_path, environment):
    trainer = build(tmp_path / "run", sessions=2, checkpoint_steps=2)
    trainer.quiet = True
    trainer.fit()
    trainer.settings = OvorSettings(**vars(trainer.settings))
    trainer.finish()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "log.jsonl", "results.json", "README.md", "report.html", "adapter_model.safetensors"} <= names
    assert any("checkpoints" in path.parts for path in files)
    for path in files:
        data = path.read_bytes()
        assert not [secret for secret in SECRETS.values() if secret.encode() in data], path
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "value",
    [
        f"https://user:{TOKEN}@huggingface.co/owner/data",
        "https://user:secretpassword@example.org/data",
        f"https://{TOKEN}@huggingface.co/owner/data",
        f"owner/data@{TOKEN}",
        TRACKER,
        "correct horse battery",
    ],
)
@pytest.mark.parametrize("setting", ["dataset", "backbone", "backbone_revision", "output_dir", "report_to", "targets"])
def test_a_setting_that_holds_a_secret_is_refused_without_showing_it(environment, setting, value, capsys):
    with pytest.raises(ValueError, match=f"{setting} holds a token or a password") as caught:
        OvorSettings(**{setting: [value] if setting in ("report_to", "targets") else value})
    assert value not in str(caught.value)
    assert launch(lambda settings: None, OvorSettings, "ovor", [f"--{setting}", value]) == 2
    shown = capsys.readouterr()
    assert not [secret for secret in (*SECRETS.values(), "secretpassword") if secret in shown.err + shown.out]


@pytest.mark.parametrize("flags", [["--datasset", TOKEN], [TOKEN], [f"--{TOKEN}", "x"], ["--config", TOKEN], ["--epochs", TOKEN]])
def test_a_message_shows_no_token(environment, flags, capsys):
    assert launch(lambda settings: None, OvorSettings, "ovor", flags) == 2
    shown = capsys.readouterr()
    assert TOKEN not in shown.err + shown.out and shown.err.count("\n") <= 3


def test_ordinary_settings_are_no_secrets(environment, monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "digits")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/someone/token")
    TrainingSettings(
        output_dir="/home/someone/token/run", backbone="hf_internal/model", backbone_revision="0123456789abcdef" * 2 + "01234567"
    )
    parse_settings(OvorSettings, "ovor", ["--config", "demo", "--dataset", "https://example.org/a@b"])


@cases
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_text_around_a_token_hides_it(before, after):
    assert "CanaryOfTheHub" not in without_secrets(f"{before} {TOKEN}{after}")
    assert "password" not in without_secrets(f"{before}https://user:password@{after}")


def test_the_file_of_the_login_is_known_too(monkeypatch, tmp_path):
    file = Path(tmp_path, "token")
    file.write_text("a-token-of-another-form")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(file))
    assert without_secrets("see a-token-of-another-form") == "see ***"
