"""accelerate's offloading: a type runs as it is, or says by name which layers have to be kept whole, and runs so."""

from __future__ import annotations

import copy
import re

import pytest
import tiny
import torch
from accelerate import cpu_offload
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


@pytest.mark.parametrize(("kind", "family", "settings"), CASES, ids=lambda value: getattr(value, "__name__", None))
@torch.no_grad()
def test_an_offloaded_model_works_or_says_how(kind, family, settings):
    model = get_peft_model(tiny.base(family), kind(class_names=NAMES, **settings)).eval()
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE)
    want = model(pixel_values=pixels).logits
    again = copy.deepcopy(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    try:
        found = model(pixel_values=pixels).logits
    except ValueError as refusal:
        if kind is CPEClipConfig:
            assert str(refusal).endswith("CPEClipLayer reads tensors that are not in memory then. Load the model without offloading.")
            return
        (whole,) = re.findall(r"preload_module_classes=\['(\w+)'\]", str(refusal))
        model = again
        cpu_offload(model, execution_device=torch.device("cpu"), preload_module_classes=[whole])
        found = model(pixel_values=pixels).logits
    assert torch.allclose(want, found, atol=1e-6)
