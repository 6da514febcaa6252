"""The packaged settings of cpe_clip and glad: each loads, says how it is launched, and describes a method."""

from __future__ import annotations

import pytest

from hf_cl.methods.cpe_clip import CpeClipSettings
from hf_cl.methods.glad import GladSettings
from hf_cl.run import CONFIGS, parse_settings

SETTINGS = {"cpe_clip": CpeClipSettings, "glad": GladSettings}
FILES = [(method, path.stem) for method in SETTINGS for path in sorted((CONFIGS / method).glob("*.yaml"))]


@pytest.mark.parametrize(("method", "name"), FILES)
def test_each_config_loads(method, name):
    settings = parse_settings(SETTINGS[method], method, ["--config", name])
    assert settings.method().name == method
    launch = (CONFIGS / method / f"{name}.yaml").read_text().splitlines()[0]
    assert launch.startswith(f"# accelerate launch recipes/{method}.py --config recipes/configs/{method}/{name}.yaml")


def test_published_settings_of_cpe_clip():
    for name, sizes in {"cifar100": (60, 5, 5, 32), "mini_imagenet": (60, 5, 5, 32), "cub200": (100, 10, 6, 4)}.items():
        settings = parse_settings(CpeClipSettings, "cpe_clip", ["--config", name])
        assert (settings.num_base_classes, settings.classes_per_session, settings.base_epochs, settings.batch_size) == sizes
        assert (settings.shots, settings.session_epochs, settings.seed, settings.augmentation) == (5, 5, 42, "none")
        assert (settings.num_prompt_tokens, settings.prompt_depth, settings.towers, settings.vision_mode) == (2, 12, "both", "accumulate")
        assert settings.head == {"type": "text", "template": "{}.", "logit_scale": 100.0, "clean_class_names": True}
