"""Merging is exact in both directions."""

from __future__ import annotations

import copy

import pytest
import torch
from async_lora_students import move, student, unfrozen_student
from tiny import NAMES, base, images

from hf_cl.adapters import AsyncLoraConfig

FAMILIES = ["vit", "dinov2", "clip_vision", "siglip_vision"]


@pytest.mark.parametrize("start", [4, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_merge_and_unmerge(family, start):
    model = unfrozen_student(family, unfreeze_from=start, names=None)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    want = model(images()).logits
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(images()).logits, want, atol=1e-5, rtol=0)
    changed = [name for name, t in model.state_dict().items() if not torch.equal(t, weights[name])]
    assert changed and all(".base_layer." in name for name in changed)
    model.unmerge_adapter()
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(images()).logits, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_and_unload_gives_a_plain_model(family):
    model = unfrozen_student(family, unfreeze_from=-1)
    want = model(images()).logits
    plain = model.merge_and_unload()
    assert type(plain) is type(base(family)) and not any("async_lora" in name for name, _ in plain.named_modules())
    torch.testing.assert_close(plain(images()).logits, want, atol=1e-5, rtol=0)


def test_unload_gives_the_base_back_although_blocks_were_trained():
    model = unfrozen_student(unfreeze_from=-1)
    pristine = base("vit").vit
    assert torch.equal(model.unload().vit(images()).last_hidden_state, pristine(images()).last_hidden_state)


def test_disabling_a_merged_adapter_gives_the_base():
    model = unfrozen_student(names=None)
    want = base("vit")(images()).logits
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(images()).logits, want)


def test_safe_merge_finds_what_is_not_finite():
    model = unfrozen_student(names=None)
    with torch.no_grad():
        model.get_base_model().vit.layers[5].mlp.fc1.async_lora_copy["default"].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)


def two_adapters(**kwargs):
    """Without heads: peft allows only one head at a time."""
    model = student(names=None, unfreeze_from=None)
    model.add_adapter("other", AsyncLoraConfig(**{"r": 2, "lora_dropout": 0.0, "head": {"type": "linear"}, **kwargs}))
    move(model, ("other",))
    return model


def test_loras_of_several_active_adapters_add():
    model = two_adapters(unfreeze_from=4)
    tuner = model.base_model
    tuner.set_adapter("other")
    tuner.unfreeze()
    move(model)
    tuner.set_adapter(["default", "other"])
    want = model(images()).logits
    model.merge_adapter()
    torch.testing.assert_close(model(images()).logits, want, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging"):
        model.merge_adapter(["other"])
    torch.testing.assert_close(model(images()).logits, want, atol=1e-5, rtol=0)


def test_two_copies_of_one_module_cannot_be_active_together():
    model = two_adapters(unfreeze_from=4, unfrozen=True)
    tuner = model.base_model
    model.add_adapter("third", AsyncLoraConfig(unfreeze_from=5, unfrozen=True, head={"type": "linear"}))
    before = copy.deepcopy(tuner.active_adapters)
    with pytest.raises(ValueError, match="both hold their own copy"):
        tuner.set_adapter(["other", "third"])
    assert tuner.active_adapters == before
    tuner.set_adapter(["default", "third"])


def test_no_copy_is_made_of_merged_weights():
    model = unfrozen_student(names=None)
    model.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        model.base_model.unfreeze()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.add_adapter("other", AsyncLoraConfig(unfreeze_from=4, head={"type": "linear"}))
    layer = model.get_base_model().vit.layers[4].mlp.fc1
    assert torch.equal(layer.async_lora_copy["other"].weight, base("vit").vit.layers[4].mlp.fc1.weight)


def test_a_merged_adapter_is_not_deleted():
    model = two_adapters()
    model.set_adapter("other")
    model.merge_adapter()
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("other")
    assert set(model.peft_config) == {"default", "other"} and model.active_adapters == ["other"]


def test_batches_of_mixed_adapters_are_refused():
    with pytest.raises(NotImplementedError, match="mixed adapters"):
        student(names=NAMES[:2])(images(), adapter_names=["default"] * 4)
