"""Every config in the package on the fake device, shortened: few epochs, two sessions of two classes, a base of two blocks.

Configs of one shape, whose settings differ in the size of numbers alone, go through the same lines: the first of a shape is run here,
killed and resumed; the others are marked `slow` and run in one go.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from typing import Any

import pytest
from device_runs import DST_WAITS, RANK_WAITS, ROOM, SARA_WAITS, Run, clip, on_the_device, vit

from hf_cl.contracts import Method
from hf_cl.methods import METHODS
from hf_cl.run import CONFIGS as CONFIG_FOLDER
from hf_cl.run import config_names, parse_settings
from hf_cl.settings import RunSettings

SHORT = {"epochs": 2, "iterations": 3, "session_iterations": 3, "vor_epochs": 1, "warmup_epochs": 1, "base_epochs": 1, "session_epochs": 1}
SHORT |= {"unfreeze_epoch": 1, "incremental_epochs": 1, "unfreeze_from": 1, "prompt_depth": 2}
"""Setting -> its largest value here."""
TAKEN = ("gradient_accumulation_steps", "gradient_checkpointing")
"""Settings of the loop that are kept; augmentation has tests of its own."""


def settings_of(method: str, name: str) -> Any:
    return parse_settings(METHODS[method], method, ["--config", name])


ELSEWHERE = {"clip_fusion"}
"""It encodes class names with the towers that its base's name leads to; tests/methods/test_clip_fusion.py has it."""
SETTINGS = {(method, name): settings_of(method, name) for method in METHODS if method not in ELSEWHERE for name in config_names(method)}


def shape(settings: RunSettings) -> str:
    """What decides which lines a method goes through: its words and switches, and of numbers the sign."""

    def coarse(value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value > 0) - (value < 0) if is_number else value

    of_the_loop = {field.name for field in fields(RunSettings)} - {*TAKEN}
    return repr({field.name: coarse(getattr(settings, field.name)) for field in fields(settings) if field.name not in of_the_loop})


def by_shape() -> list[list[tuple[str, str]]]:
    groups = defaultdict(list)
    for config, settings in SETTINGS.items():
        groups[config[0], shape(settings)].append(config)
    return list(groups.values())


CONFIGS = [
    pytest.param(*config, not number, marks=[pytest.mark.slow] if number else [], id="-".join(config))
    for group in by_shape()
    for number, config in enumerate(group)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def shortened(method: str, name: str) -> Run:
    settings = settings_of(method, name)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in SHORT and value and not isinstance(value, str):
            setattr(settings, field.name, min(value, SHORT[field.name]))
        elif field.name == "layer_tokens":
            settings.layer_tokens = {0: 2, 1: 2}
        elif field.name in ("e_layers", "g_layers"):
            setattr(settings, field.name, [1] if field.name == "e_layers" else [0])
        elif field.name == "lora_blocks" and value:
            settings.lora_blocks = [block for block in value if block < 2]
        elif field.name == "head" and "text_model" in value:
            settings.head["text_model"] = "demo_clip"  # which needs no network
    if "grid" in getattr(settings, "head", {}):
        settings.head = {**settings.head, "grid": 2}  # of the tiny base's 4 x 4 patches
    settings.batch_size = 4
    if name == "domains":
        settings.conditioning = "none"  # these streams say no domain; tests/methods/test_session_norm.py trains norms by domain
    if method == "cpe_clip":
        settings.init = "xavier"  # words are read by the tokenizer of a published base

    def made() -> Method:
        small = settings.method()
        if method == "sara":
            small.adapter.rank_min_dim = small.adapter.rank_min_nnz = 8  # or no matrix is large enough for the rank term
        return small

    texts = settings.method().adapter.has_text_head
    kept = {key: getattr(settings, key) for key in TAKEN}
    trains_later = getattr(settings, "incremental_epochs", 1) > 0
    return Run(made, clip(2) if texts else vit, "clip" if texts else None, settings=kept, dies_in=int(trains_later))


@pytest.mark.parametrize(("method", "name", "killed"), CONFIGS)
def test_a_shipped_config(method, name, killed, tmp_path, folder):
    found = on_the_device(shortened(method, name), tmp_path, folder, killed=killed)
    allowed = {"dst": DST_WAITS, "sara": {**RANK_WAITS, **SARA_WAITS}, "cpe_clip": ROOM, "dkvb": {"heads/dkvb.py after_step"}}
    if name == "sam_replay":  # once after a resume: statistics are restored after the losses
        allowed["compose"] = {"losses/feature_replay.py _tabulate"}
    if name == "coded_names":  # once after a resume: which classes have words
        allowed["cpe_clip"] = {*ROOM, "adapters/text_classifier.py learned"}
    if name == "clip_text_replay":  # likewise
        allowed["compose"] = {*ROOM, "losses/text_replay.py _tabulate"}
    assert found.waits.keys() <= set(allowed.get(method, ()))
    assert found.left_behind == []


def test_no_folder_of_configs_is_left_out():
    assert {path.name for path in CONFIG_FOLDER.iterdir() if path.is_dir()} == {method for method, _ in SETTINGS} | ELSEWHERE
