"""Which modules are unfrozen, by position."""

from __future__ import annotations

import pytest
import torch
from async_lora_students import move, student
from peft import get_peft_model
from tiny import CLASSIFIERS, NAMES, base, images

from hf_cl.adapters import AsyncLoraConfig
from hf_cl.adapters.async_lora.unfreezing import modules_to_copy

BLOCK = {
    "vit": ("vit.layers.{}.", ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "layernorm_before"]),
    "deit": ("deit.layers.{}.", ["attention.q_proj", "layernorm_after", "mlp.fc1", "mlp.fc2"]),
    "dinov2": ("dinov2.encoder.layer.{}.", ["norm1", "layer_scale1", "attention.o_proj", "mlp.fc2", "layer_scale2"]),
    "clip_vision": ("vision_model.encoder.layers.{}.", ["self_attn.out_proj", "layer_norm1", "mlp.fc1"]),
    "siglip_vision": ("vision_model.encoder.layers.{}.", ["self_attn.q_proj", "layer_norm2", "mlp.fc2"]),
}
AROUND = {
    "vit": (["vit.embeddings"], ["vit.layernorm"]),
    "deit": (["deit.embeddings"], ["deit.layernorm"]),
    "dinov2": (["dinov2.embeddings"], ["dinov2.layernorm"]),
    "clip_vision": (["vision_model.embeddings", "vision_model.pre_layrnorm"], []),
    "siglip_vision": (
        ["vision_model.embeddings.patch_embedding", "vision_model.embeddings.position_embedding"],
        ["vision_model.post_layernorm"],
    ),
    "clip": (["vision_model.embeddings", "vision_model.pre_layrnorm"], ["vision_model.post_layernorm", "visual_projection"]),
    "siglip": (
        ["vision_model.embeddings.patch_embedding", "vision_model.embeddings.position_embedding"],
        ["vision_model.post_layernorm", "vision_model.head"],
    ),
}


@pytest.mark.parametrize("family", AROUND)
@pytest.mark.parametrize("start", [-1, 0, 4])
def test_blocks_from_the_start_on_and_what_is_around_them(family, start):
    plain = base(family)
    found = modules_to_copy(plain, start)
    before, after = AROUND[family]
    prefix, some = BLOCK[f"{family}_vision" if f"{family}_vision" in BLOCK else family]
    for block in range(6):
        inside = {name.removeprefix(prefix.format(block)) for name in found if name.startswith(prefix.format(block))}
        assert bool(inside) == (block >= start)
        if inside:
            assert set(some) <= inside
            parameters = {name for name, _ in plain.get_submodule(prefix.format(block)[:-1]).named_parameters()}
            assert {name.rpartition(".")[0] for name in parameters} == inside
    around = [name for name in found if not any(name.startswith(prefix.format(block)) for block in range(6))]
    assert around == (before if start == -1 else []) + after


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("start", [-1, 5])
def test_every_unfrozen_weight_gets_a_gradient(family, start):
    """DDP takes a parameter without one for a mistake: Dinov2's mask token and CLIP's unused norm must not be among them."""
    model = student(family, unfreeze_from=start)
    model.base_model.unfreeze()
    move(model)
    torch.nn.functional.cross_entropy(model(images()).logits, torch.arange(4) % 3).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_copies_rest_until_they_are_unfrozen():
    model = student()
    tuner = model.base_model
    before = model(images()).logits
    copies = [name for name, _ in model.named_parameters() if "async_lora_copy" in name]
    assert len(copies) == 34 and not tuner.copies_train()
    move(model)
    assert torch.equal(model(images()).logits, before)  # not read
    model.set_adapter("default")  # peft makes adapters trainable whenever it switches them
    assert not tuner.copies_train()
    tuner.unfreeze()
    assert tuner.copies_train() and torch.equal(model(images()).logits, before)  # they begin at the base's values
    move(model)
    after = model(images()).logits
    assert not torch.equal(after, before)
    tuner.unfreeze()
    assert torch.equal(model(images()).logits, after)  # the second time it does nothing


def test_large_copies_are_announced(monkeypatch):
    monkeypatch.setattr("hf_cl.adapters.async_lora.roles._LARGE", 1000)
    with pytest.warns(UserWarning, match=r"unfreeze_from=4 copies 0 MB"):
        student()


@pytest.mark.parametrize(("value", "message"), [(6, r"blocks 0 to 5"), (-2, "-1 \\(everything\\)")])
def test_unfreeze_from_out_of_range(value, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(base("vit"), AsyncLoraConfig(unfreeze_from=value, head={"type": "linear"}))


def test_unfreeze_without_unfreeze_from():
    with pytest.raises(ValueError, match="needs unfreeze_from"):
        student(unfreeze_from=None).base_model.unfreeze()


def test_unfreezing_an_adapter_that_was_loaded_for_inference(tmp_path):
    from peft import PeftModel

    student().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(base("vit"), tmp_path)
    assert not any("async_lora_copy" in name for name, _ in model.named_parameters())  # no memory for what rests
    before = model(images()).logits
    model.base_model.unfreeze()
    assert model.base_model.copies_train() and torch.equal(model(images()).logits, before)


@pytest.mark.parametrize("kwargs", [{"layers_to_transform": [1, 6]}, {"layers_to_transform": 9}])
def test_blocks_of_lora_out_of_range(kwargs):
    with pytest.raises(ValueError, match=r"names blocks \[\d\]; the base has blocks 0 to 5"):
        student(**kwargs)


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_blocks_of_lora(family):
    kwargs = {"names": None} if family == "clip" else {}
    model = student(family, layers_to_transform=[0, 2], unfreeze_from=None, **kwargs)
    found = {name.split("layers.")[1][0] for name, _ in model.named_parameters() if "async_lora_A" in name}
    assert found == {"0", "2"} and not any("text_model" in name for name, _ in model.named_parameters() if "async_lora" in name)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"r": 0}, "r must be"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"ema_decay": 1.5}, "ema_decay"),
        ({"bias": "all"}, "trains no biases"),
        ({"layers_to_transform": []}, "layers_to_transform is empty"),
        ({"unfreeze_epoch": -1}, "unfreeze_epoch"),
        ({"unfrozen": True}, "needs unfreeze_from"),
        ({"target_modules": ["layernorm_before"]}, "nn.Linear"),
    ],
)
def test_bad_configs(kwargs, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(base("vit"), AsyncLoraConfig(**{"head": {"type": "linear"}, **kwargs}))
    assert NAMES
