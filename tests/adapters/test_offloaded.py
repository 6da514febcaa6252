"""accelerate's offloading: a type runs as it is, or says by name which layers have to be kept whole, and runs so."""

from __future__ import annotations

import copy
import re

import pytest
import tiny
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import get_peft_model

from hf_cl.adapters import AsyncLoraConfig, CPEClipConfig, GladConfig, OnePromptConfig, SaraConfig

NAMES = ["cat", "dog"]
CASES = [
    (GladConfig, "vit", {"r": 4}),
    (AsyncLoraConfig, "vit", {"r": 4, "head": {"type": "linear", "bias": False, "pooler": False}}),
    (OnePromptConfig, "vit", {}),
    (SaraConfig, "vit", {}),
    (CPEClipConfig, "clip_vision", {"towers": "vision"}),
]


def on_cpu(model, folder, whole):
    cpu_offload(model, execution_device=torch.device("cpu"), preload_module_classes=whole)


def on_disk(model, folder, whole):
    disk_offload(model, folder, execution_device=torch.device("cpu"), preload_module_classes=whole)


def by_a_map(model, folder, whole):
    """All but the classifier on the disk, as `device_map="auto"` does where memory does not do."""
    children = [name for name, _ in model.base_model.model.named_children()]
    places = {f"base_model.model.{name}": "cpu" if name == "classifier" else "disk" for name in children}
    dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), preload_module_classes=whole)


@pytest.mark.parametrize("offload", [on_cpu, on_disk, by_a_map])
@pytest.mark.parametrize(("kind", "family", "settings"), CASES, ids=lambda value: getattr(value, "__name__", None))
@torch.no_grad()
def test_an_offloaded_model_works_or_says_how(kind, family, settings, offload, tmp_path):
    model = get_peft_model(tiny.base(family), kind(class_names=NAMES, **settings)).eval()
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE)
    want = model(pixel_values=pixels).logits
    again = copy.deepcopy(model)
    offload(model, tmp_path / "first", None)
    try:
        found = model(pixel_values=pixels).logits
    except ValueError as refusal:
        if kind is CPEClipConfig:
            assert str(refusal).endswith("CPEClipLayer reads tensors that are not in memory then. Load the model without offloading.")
            return
        (whole,) = re.findall(r"preload_module_classes=\['(\w+)'\]", str(refusal))
        model = again
        offload(model, tmp_path / "second", [whole])
        found = model(pixel_values=pixels).logits
    assert torch.allclose(want, found, atol=1e-6)
