"""GLAD on open_clip: the packed attention is split, so that the adapter is the one that transformers has."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import two_towers
from peft import PeftModel, get_peft_model
from torch import nn
from two_towers import NAMES, images

from hf_cl.adapters import GladConfig
from hf_cl.adapters.glad.split_attention import SplitAttention
from hf_cl.backbones import ClipClassifier

everywhere = pytest.mark.parametrize("family", ["open_clip", "custom_text", "custom_text_last"])


def adapted(plain, **settings) -> PeftModel:
    model = get_peft_model(plain, GladConfig(class_names=list(NAMES), lora_dropout=0.0, **settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted((name, p) for name, p in model.named_parameters() if "lora_B" in name):
            p.normal_(0, 0.1, generator=generator)
    return model


@torch.no_grad()
def logits(model, config, family: str) -> torch.Tensor:
    return ClipClassifier(model, config, two_towers.tokenizer_of(family)).eval()(images())[1]


@everywhere
@torch.no_grad()
def test_split_is_the_packed_attention(family):
    plain = two_towers.base(family)
    want_image, keys = plain.encode_image(images()), list(plain.state_dict())
    ids = two_towers.tokenizer_of(family)(["w10."], padding="max_length", max_length=two_towers.CONTEXT, return_tensors="pt")["input_ids"]
    want_text = plain.encode_text(ids)
    original = copy.deepcopy(plain.state_dict())
    model = get_peft_model(plain, GladConfig())  # B = 0: identity
    torch.testing.assert_close(plain.encode_image(images()), want_image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.encode_text(ids), want_text, atol=1e-5, rtol=1e-5)
    assert not [m for m in plain.modules() if type(m) is nn.MultiheadAttention]
    unloaded = model.unload()
    assert list(unloaded.state_dict()) == keys and all(torch.equal(original[k], v) for k, v in unloaded.state_dict().items())
    assert torch.equal(unloaded.encode_image(images()), want_image) and torch.equal(unloaded.encode_text(ids), want_text)


@everywhere
def test_save_and_load(family, tmp_path):
    model = adapted(two_towers.base(family))
    config = model.peft_config["default"]
    want = logits(model.get_base_model(), config, family)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(two_towers.base(family), tmp_path).eval()
    assert torch.equal(logits(loaded.get_base_model(), loaded.peft_config["default"], family), want)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin.get_base_model(), config, family), want)
    with model.disable_adapter():
        torch.testing.assert_close(
            logits(model.get_base_model(), config, family), logits(two_towers.base(family), config, family), atol=2e-4, rtol=0
        )
    merged = model.merge_and_unload()
    assert not [m for m in merged.modules() if isinstance(m, SplitAttention)]
    torch.testing.assert_close(logits(merged, config, family), want, atol=1e-3, rtol=0)


@everywhere
def test_a_second_adapter(family):
    model = adapted(two_towers.base(family))
    config = model.peft_config["default"]
    want = logits(model.get_base_model(), config, family)
    model.add_adapter("other", GladConfig(r=3, class_names=["w20", "w21"]))
    assert torch.equal(logits(model.get_base_model(), config, family), want)
    model.set_adapter("other")
    assert logits(model.get_base_model(), model.peft_config["other"], family).shape == (4, 2)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(logits(model.get_base_model(), config, family), want)


@everywhere
def test_only_lora_trains_and_checkpointing_changes_nothing(family):
    grads = []
    for checkpointing in (False, True):
        model = adapted(two_towers.base(family)).train()
        if checkpointing:
            two_towers.enable_checkpointing(model.get_base_model())
        one = ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer_of(family)).train()
        nn.functional.cross_entropy(one(images())[1], torch.arange(4)).backward()
        assert all(("lora_" in name) == p.requires_grad == (p.grad is not None) for name, p in model.named_parameters())
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_adapter_equals_transformers():
    """Same weights, same LoRA: same count and same logits."""
    torch.manual_seed(0)
    ours = two_towers.clip(4, 4).eval()
    theirs = two_towers.to_open_clip(ours)
    left, right = get_peft_model(ours, GladConfig(class_names=list(NAMES))), get_peft_model(theirs, GladConfig(class_names=list(NAMES)))
    values = {name: p for name, p in left.named_parameters() if "lora_" in name}
    renames = {
        "text_model.encoder.layers": "transformer.resblocks",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "self_attn": "attn",
    }
    found = {name: p for name, p in right.named_parameters() if "lora_" in name}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in values.items():
            p.normal_(0, 0.1, generator=generator)
            renamed = name
            for a, b in renames.items():
                renamed = renamed.replace(a, b)
            found.pop(renamed).copy_(p)
    assert not found
    config = left.peft_config["default"]
    torch.testing.assert_close(logits(theirs.eval(), config, "open_clip"), logits(ours.eval(), config, "clip"), atol=2e-4, rtol=0)


def test_attention_of_another_kind_is_refused():
    from open_clip.model import CLIP

    settings = two_towers._open_clip_settings(2, 2)
    settings["vision_cfg"]["qk_norm"] = True
    with pytest.raises(ValueError, match="is a Attention"):
        get_peft_model(CLIP(**settings), GladConfig())
