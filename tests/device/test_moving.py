"""A model may be moved after the adapter is in it, and between uses: whatever stands beside its parameters follows."""

from __future__ import annotations

import pytest
import torch
import two_towers
from async_lora_students import move, unfrozen_student
from fake_device import Elsewhere, FakeDevice, device
from tiny import ADAPTERS, NAMES, base, images

from hf_cl.adapters import GladConfig
from hf_cl.backbones import classifier_of


def test_roles_of_async_lora_follow_and_share_what_they_shared():
    model = unfrozen_student()
    tuner, states = model.base_model, model.base_model.states["default"]
    tuner.keep("base", "base_teacher")
    move(model, ("async_lora_A",))
    roles = ("pretrained", "teacher", "base", "base_teacher")
    expected = {}
    for role in roles:
        with tuner.role(role):
            expected[role] = model(images()).logits
    with FakeDevice(swap=False):
        model.to(device())
        for role in roles:
            with tuner.role(role):
                assert torch.allclose(model(images().to(device())).logits.cpu(), expected[role], atol=1e-5)
        tuner.update_teacher()
        shared = states.base_teacher.keys() & states.teacher.keys()
        assert shared and all(states.base_teacher[name] is states.teacher[name] for name in shared)
        assert all(isinstance(tensor, Elsewhere) for tensor in states.base.values())


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind in ("ASYNC_LORA", "GLAD", "SARA")])
def test_a_merged_adapter_is_moved_and_unmerged(kind):
    from peft import get_peft_model

    model = get_peft_model(base("vit"), ADAPTERS[kind](class_names=NAMES[:3])).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = model(images()).logits
    model.merge_adapter()
    with FakeDevice(swap=False):
        model.to(device())
        model.unmerge_adapter()
        assert torch.allclose(model(images().to(device())).logits.cpu(), expected, atol=1e-5)


def test_texts_are_encoded_again_where_the_model_went():
    from peft import get_peft_model

    config = GladConfig(head={"type": "text"}, class_names=["w10", "w11"])
    model = get_peft_model(two_towers.base("clip"), config).eval()
    classifier = classifier_of(model, two_towers.tokenizer())
    pixels = two_towers.images()
    with torch.no_grad():
        here = classifier.outputs(pixels).logits
        with FakeDevice(swap=False):
            model.to(device())
            assert torch.allclose(classifier.outputs(pixels.to(device())).logits.cpu(), here, atol=1e-4)
        model.to("cpu")
        assert torch.allclose(classifier.outputs(pixels).logits, here, atol=1e-4)
