"""The published settings of CoACT as packaged configs."""

from __future__ import annotations

import pytest

from hf_cl.contracts import Session
from hf_cl.methods.coact import CoactSettings
from hf_cl.run import CONFIGS, config_names, parse_settings

# classes, base, way, sessions, epochs, learning rate, unfreeze from, at epoch, encoder factor, later (epochs, what, factor)
TUNING = {
    "caltech101": (102, 12, 10, 10, 50, 0.1, 6, 0, 0.1, (1, "lora", 0.01)),
    "cifar100": (100, 10, 10, 10, 50, 0.1, 9, 0, 0.001, (1, "classifier", 0.001)),
    "country211": (211, 22, 21, 10, 50, 0.5, 6, 10, 0.01, None),
    "cub200": (200, 20, 20, 10, 50, 0.1, 6, 25, 0.1, None),
    "dtd": (47, 7, 5, 9, 30, 0.5, -1, 10, 0.1, (1, "classifier+lora", 0.001)),
    "eurosat": (10, 1, 1, 10, 50, 0.5, -1, 10, 0.01, (1, "classifier", 0.001)),
    "fgvc_aircraft": (100, 10, 10, 10, 50, 0.1, 11, 0, 0.1, None),
    "food101": (101, 11, 10, 10, 50, 0.5, 11, 10, 1.0, None),
    "gtsrb": (43, 7, 4, 10, 30, 0.1, 6, 0, 0.1, None),
    "mini_imagenet": (100, 10, 10, 10, 30, 0.1, 3, 25, 0.5, (1, "lora", 0.001)),
    "oxford_flowers": (102, 12, 10, 10, 50, 0.5, -1, 0, 0.01, None),
    "oxford_pets": (37, 5, 4, 9, 50, 0.1, 11, 25, 0.5, (1, "classifier+lora", 0.001)),
    "resisc45": (45, 5, 5, 9, 50, 0.1, 3, 0, 0.1, None),
    "stanford_cars": (196, 28, 21, 9, 30, 0.1, -1, 0, 0.01, None),
    "sun397": (397, 45, 44, 9, 30, 0.1, 11, 10, 0.01, (1, "classifier", 0.001)),
    "voc2007": (20, 2, 2, 10, 30, 0.1, 3, 25, 0.1, (1, "classifier", 0.001)),
}
LEARNING = {
    "fscil_cifar100": (100, 60, 5, 9, 25, 0.001, 11, 10, 0.01, None),
    "fscil_mini_imagenet": (100, 60, 5, 9, 25, 0.001, 11, 10, 0.01, None),
    "fscil_cub200": (200, 100, 10, 11, 25, 0.1, -1, 0, 0.01, None),
}
OURS = {"demo", "cifar_subset", "own_images"}


def settings(name: str) -> CoactSettings:
    return parse_settings(CoactSettings, "coact", ["--config", name])


def test_every_published_setting_has_a_config():
    assert set(config_names("coact")) == TUNING.keys() | LEARNING.keys() | OURS


@pytest.mark.parametrize("name", [*TUNING, *LEARNING])
def test_published_settings(name):
    classes, base, way, sessions, epochs, rate, start, at, factor, later = (TUNING | LEARNING)[name]
    s = settings(name)
    assert base + way * (sessions - 1) == classes and (s.num_base_classes, s.classes_per_session) == (base, way)
    assert (s.epochs, s.learning_rate, s.unfreeze_from, s.unfreeze_epoch, s.encoder_lr_factor) == (epochs, rate, start, at, factor)
    if later is None:
        assert s.incremental_epochs == 0
    else:
        assert (s.incremental_epochs, s.incremental_train, s.incremental_lr_factor) == later
    few_shot = name in TUNING
    assert s.protocol == ("few_shot_class_incremental_tuning" if few_shot else "few_shot_class_incremental")
    assert s.shots == (10 if few_shot else 5) and s.batch_size == 64 and s.augmentation == "strong" and s.start_with_prototypes
    assert s.lora_blocks == (list(range(6)) if name == "fscil_cub200" else None) and s.backbone == "google/vit-base-patch16-224-in21k"


def test_eleven_of_nineteen_train_nothing_after_session_0():
    assert sum(settings(name).incremental_epochs == 0 for name in TUNING | LEARNING) == 11


@pytest.mark.parametrize("name", config_names("coact"))
def test_every_config_makes_its_method(name):
    first = (CONFIGS / "coact" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch recipes/coact.py --config recipes/configs/coact/{name}.yaml")
    s = settings(name)
    session = Session(0, ("a", "b"), ("a", "b"), train=None, tests=())
    assert sum(phase.epochs for phase in s.method().phases(session)) == s.epochs
