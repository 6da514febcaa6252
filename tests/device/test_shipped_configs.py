"""Every config in the package on the fake device, shortened: few epochs, two sessions of two classes, a base as deep as its own.

Bases of twelve blocks take their time: all but those of `FAST` are marked `slow`.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import pytest
from device_runs import RANK_WAITS, ROOM, SARA_WAITS, Run, clip, on_the_device, vit

from hf_cl.methods import METHODS
from hf_cl.run import CONFIGS as CONFIG_FOLDER
from hf_cl.run import config_names, parse_settings

SHORT = {"epochs": 2, "iterations": 3, "session_iterations": 3, "vor_epochs": 1, "warmup_epochs": 1, "base_epochs": 1, "session_epochs": 1}
SHORT |= {"unfreeze_epoch": 1, "incremental_epochs": 1}
"""Setting -> its largest value here."""
TAKEN = ("gradient_accumulation_steps", "gradient_checkpointing")
"""Settings of the loop that are kept; augmentation has tests of its own."""
FAST = ("ovor", "linear_probe", "nearest_class_mean")
CONFIGS = [(method, name) for method in METHODS if method != "clip_fusion" for name in config_names(method)]
"""clip_fusion encodes class names with the towers that its base's name leads to; tests/methods/test_clip_fusion.py has it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def shortened(method: str, name: str) -> Run:
    settings = parse_settings(METHODS[method], method, ["--config", name])
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in SHORT and value:
            setattr(settings, field.name, min(value, SHORT[field.name]))
    settings.batch_size = 4
    texts = settings.method().adapter.has_text_head
    kept = {key: getattr(settings, key) for key in TAKEN}
    return Run(settings.method, clip(12) if texts else partial(vit, layers=12), "clip" if texts else None, settings=kept)


@pytest.mark.parametrize(
    ("method", "name"), [pytest.param(*config, marks=[] if config[0] in FAST else [pytest.mark.slow]) for config in CONFIGS]
)
def test_a_shipped_config(method, name, tmp_path, folder):
    found = on_the_device(shortened(method, name), tmp_path, folder)
    known = set(RANK_WAITS) | set(SARA_WAITS) if method == "sara" else set(ROOM) if method == "cpe_clip" else set()
    assert set(found.waits) <= known
    assert found.left_behind == []


def test_no_folder_of_configs_is_left_out():
    assert {path.name for path in CONFIG_FOLDER.iterdir() if path.is_dir()} <= METHODS.keys()
