"""Settings from YAML and flags: nothing is silently ignored, and mistakes are said in a line."""

from __future__ import annotations

import pytest
import yaml

from hf_cl.methods import METHODS, OvorSettings
from hf_cl.run import CONFIGS, config_names, describe, launch, open_scenario, parse_settings


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_packaged_config_loads_and_names_its_command(path):
    method = path.parent.name
    settings = parse_settings(METHODS[method], method, ["--config", path.stem])
    assert settings.method().adapter.peft_type
    assert f"--config recipes/configs/{method}/{path.name}" in path.read_text().splitlines()[0]


def test_flags_override_the_file_and_dashes_are_accepted():
    settings = parse_settings(OvorSettings, "ovor", ["--config", "demo", "--learning-rate", "1e-4", "--head={type: cosine}", "--cpu"])
    assert (settings.learning_rate, settings.head, settings.cpu) == (1e-4, {"type": "cosine"}, True)
    assert settings.dataset == "digits"


def test_one_tracker_or_several():
    assert parse_settings(OvorSettings, "ovor", ["--report_to", "tensorboard"]).report_to == ["tensorboard"]
    assert parse_settings(OvorSettings, "ovor", ["--report_to", "tensorboard, wandb"]).report_to == ["tensorboard", "wandb"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat", "1"], r"Unknown setting 'learning_rat' \(--learning_rat\). Did you mean 'learning_rate'\?"),
        (["--epochs", "many"], "--epochs: .*got 'many'"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--config", "nowhere"], "no such file, and ovor has no config of that name; it has cifar100, demo"),
        (["--head={"], "is no YAML value"),
        (["epochs"], "Expected a flag like --key value, got 'epochs'"),
    ],
)
def test_a_mistake_is_named(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(OvorSettings, "ovor", flags)


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"epoch": 3}))
    with pytest.raises(ValueError, match=r"Unknown setting 'epoch' \(config .*mine.yaml\). Did you mean 'epochs'"):
        parse_settings(OvorSettings, "ovor", ["--config", str(path)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "class_incrementl"}, "Did you mean 'class_incremental'"),
        ({"shots": 5}, "Protocol class_incremental has no 'shots'"),
        ({"protocol": "few_shot_class_incremental"}, "needs shots"),
    ],
)
def test_a_protocol_takes_its_own_settings_and_no_others(values, message):
    with pytest.raises(ValueError, match=message):
        open_scenario(OvorSettings(**values))


def test_a_user_s_mistake_gives_two_lines_and_no_traceback(capsys):
    assert launch(lambda settings: None, OvorSettings, "ovor", ["--epochz", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf_cl: Unknown setting 'epochz'") and error.count("\n") == 1


def test_help_lists_every_setting(capsys):
    assert launch(lambda settings: None, OvorSettings, "ovor", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--vor_epochs" in text and "Epochs of the head on features with virtual outliers" in text and "demo" in text
    assert describe(OvorSettings, "ovor") in text
    assert config_names("ovor") == ["cifar100", "demo", "imagenet_r", "own_images"]
