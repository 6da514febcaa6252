"""Settings from YAML and flags: nothing is silently ignored, and mistakes are said in a line."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_cl.methods import METHODS, OvorSettings
from hf_cl.run import CONFIGS, config_names, describe, launch, open_scenario, parse, parse_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_packaged_config_loads_and_names_its_command(path):
    method = path.parent.name
    settings = parse_settings(METHODS[method], method, ["--config", path.stem])
    assert settings.method().adapter.peft_type
    by_recipe, by_name = f"recipes/{method}.py --config recipes/configs/{method}/{path.name}", f"hf-cl train {method} --config {path.stem} "
    command = path.read_text().splitlines()[0]
    assert by_name in command or (by_recipe in command and (ROOT / "recipes" / f"{method}.py").exists())


@pytest.mark.parametrize("config", ["demo", "own_images"])
def test_what_is_compared_has_the_same_sessions(config):
    runs = [
        parse_settings(METHODS[method], method, ["--config", config]) for method in ("ovor", "lora", "linear_probe", "nearest_class_mean")
    ]
    shared = (
        "dataset",
        "backbone",
        "num_base_classes",
        "classes_per_session",
        "class_order",
        "class_order_seed",
        "batch_size",
        "normalize",
    )
    for name in shared:
        assert len({getattr(run, name) for run in runs}) == 1, name
    assert runs[0].epochs == runs[1].epochs and runs[0].head == runs[1].head  # the probe's epochs are on features, and cheap


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
        (["--config", "own_image"], r"it has cifar100, .*. Did you mean 'own_images'\?"),
        (["--head", "3"], r"--head: expected a name, or keys and values in braces such as '{type: prototype}', got 3"),
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
        ({"shots": 5}, r"Protocol class_incremental has no 'shots'; .*that has: few_shot_class_incremental, .*, base_to_novel"),
        ({"protocol": "few_shot_class_incremental"}, "needs shots"),
        ({"protocol": "si_blurry", "class_order": "coda"}, "has an order of classes of its own"),
        ({"protocol": "few_shot_class_incremental", "shots": 5, "class_order": "sed"}, "Did you mean 'seed'"),
        (
            {"protocol": "few_shot_class_incremental", "shots": 5, "class_order": "seed", "index_list": "lists"},
            "index_list brings the order of classes with it, and class_order is 'seed'",
        ),
    ],
)
def test_a_protocol_takes_its_own_settings_and_no_others(values, message):
    with pytest.raises(ValueError, match=message):
        open_scenario(OvorSettings(**values))


def test_the_example_of_a_dict_is_one_of_that_setting():
    for name, example in parse._EXAMPLES.items():
        settings = parse_settings(METHODS["compose"], "compose", [f"--{name}", example])
        assert getattr(settings, name) == yaml.safe_load(example)
        with pytest.raises(ValueError, match=re.escape(f"in braces such as '{example}', got 20")):
            parse_settings(METHODS["compose"], "compose", [f"--{name}", "20"])


@pytest.mark.parametrize(
    ("protocol", "said", "order"),
    [
        ("class_incremental", None, "seed"),
        ("class_incremental", "natural", "natural"),
        ("few_shot_class_incremental", None, "natural"),
        ("few_shot_class_incremental_tuning", None, "natural"),
        ("few_shot_class_incremental_tuning", "seed", "seed"),
    ],
)
def test_an_order_that_is_not_said_is_the_protocol_s_own(protocol, said, order):
    shots = {"shots": 5} if protocol != "class_incremental" else {}
    stream = open_scenario(
        OvorSettings(dataset="digits", protocol=protocol, class_order=said, class_order_seed=3, num_base_classes=5, **shots)
    )
    drawn = np.random.default_rng(3).permutation(10) if order == "seed" else np.arange(10)
    assert stream.class_names == tuple(str(label) for label in drawn)
    assert stream.protocol["class_order"] == order


def test_a_user_s_mistake_gives_two_lines_and_no_traceback(capsys):
    assert launch(lambda settings: None, OvorSettings, "ovor", ["--epochz", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-cl: Unknown setting 'epochz'") and error.count("\n") == 1


def test_all_mistakes_are_said_at_once():
    with pytest.raises(ValueError, match="Unknown") as refused:
        parse_settings(OvorSettings, "ovor", ["--epochz", "3", "--seed", "x", "--head", "3", "--shotz", "1"])
    said = str(refused.value).split("\n")
    assert [re.findall(r"--(\w+)", line)[0] for line in said] == ["epochz", "shotz", "seed", "head"]
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0\.\nnum_workers must be"):
        parse_settings(OvorSettings, "ovor", ["--batch_size", "0", "--num_workers", "0"])


def test_a_name_is_short_for_a_dict_with_a_type():
    from hf_cl.methods.compose import ComposeSettings

    flags = ["--head", "prototype", "--rule=sam", "--losses", "zero_shot_kl, consistency", "--import", "a.py", "--import", "b.py"]
    settings = parse_settings(ComposeSettings, "compose", flags)
    assert settings.head == {"type": "prototype"} and settings.rule == {"type": "sam"}
    assert settings.losses == {"zero_shot_kl": {}, "consistency": {}} and settings.imports == ["a.py", "b.py"]


def test_no_is_a_word_where_a_setting_has_it(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("mixed_precision: no\n")
    for flags in (["--mixed_precision", "no"], ["--config", str(file)]):
        assert (
            parse_settings(METHODS["frozen"], "frozen", ["--output_dir", "runs/x", "--dataset", "digits", *flags]).mixed_precision == "no"
        )


def test_own_pictures_take_their_own_config(tmp_path, capsys):
    seen = []
    words = ["--dataset", str(tmp_path), "--epochs", "3"]
    assert launch(seen.append, OvorSettings, "ovor", words) == 0
    assert (seen[0].head, seen[0].epochs, seen[0].num_base_classes) == ({"type": "gaussian"}, 3, 2)
    assert capsys.readouterr().err.startswith("hf-cl: no --config: took --config own_images, made for own pictures; --config none")
    assert launch(seen.append, OvorSettings, "ovor", [*words, "--config", "none"]) == 0
    assert launch(seen.append, OvorSettings, "ovor", ["--dataset", "digits"]) == 0
    assert seen[1].head == seen[2].head == {"type": "linear"} and not capsys.readouterr().err


def test_help_lists_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert launch(lambda settings: None, OvorSettings, "ovor", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--vor_epochs" in text and "Epochs of the head on features with virtual outliers" in text and "demo" in text
    assert text.startswith("usage: hf-cl train ovor --config {cifar100,")
    assert "One of none, flip, crop, crop_flip" in text and "One of class_incremental, " in text and "hf_cl." not in text
    assert [line.rstrip() for line in text.splitlines()][2:] == describe(OvorSettings, "ovor", width=200).splitlines()[2:]
    flags = {line.split()[0][2:] for line in text.splitlines() if line.startswith("  --")}
    assert flags == {field.name for field in fields(OvorSettings)} - {"imports"} | {"import"}


def test_help_shows_the_values_of_the_config_that_was_named():
    text = describe(OvorSettings, "ovor", ["--config", "own_images", "--help", "--seed", "3"], width=300)
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")}
    ends = {"--head": "['{type: gaussian}']", "--epochs": "[10]", "--vor_epochs": "[0]", "--class_order": "[natural]", "--seed": "[3]"}
    for flag, value in ends.items():
        assert lines[flag].endswith(value), lines[flag]
    assert launch(lambda settings: None, OvorSettings, "ovor", ["--config", "own_image", "--help"]) == 2


def test_config_names():
    assert config_names("ovor") == ["cifar100", "demo", "imagenet_r", "own_images"]
