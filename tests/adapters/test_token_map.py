"""Heads that read patch tokens: the map comes by a hook placed at injection, so by every way an adapter is loaded, to the bit."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model

from hf_cl.adapters.token_map import pooled_map
from hf_cl.backbones import classifier_of
from hf_cl.heads import check_head

HEAD = {"type": "maxsim", "vectors_per_class": 2, "out_dim": 16}
FIRST = {"vit": 1, "deit": 2, "dinov2": 1, "clip_vision": 1, "siglip_vision": 0}


def adapted(family: str, kind: str = "GLAD", head=HEAD, names=("a", "b", "c")):
    """(model, its base)"""
    base = tiny.base(family)
    model = get_peft_model(base, tiny.ADAPTERS[kind](class_names=list(names), classes_per_session=[len(names)], head=dict(head))).eval()
    torch.manual_seed(1)
    for parameter in model.base_model.head_wrapper().head("default").parameters():  # pyright: ignore
        torch.nn.init.normal_(parameter)
    return model, base


def tower(base):
    return next(module for name, module in base.named_children() if name != "classifier")


def hooks(base) -> int:
    return len(tower(base)._forward_hooks)


@pytest.mark.parametrize("family", FIRST)
@torch.no_grad()
def test_every_loading_route_gives_the_same_bits(family, tmp_path):
    model, base = adapted(family)
    pixels = tiny.images(3)
    head = model.base_model.head_wrapper().head("default")
    states = tower(base)(pixels)[0]
    if family == "clip_vision":
        states = base.vision_model.post_layernorm(states)
    tokens = states[:, FIRST[family] :].unflatten(1, (4, 4))
    outputs = classifier_of(model).outputs(pixels)
    want = head(tokens)
    assert torch.equal(outputs.features, tokens) and torch.equal(outputs.logits, want) and outputs.embedding.shape == (3, 32)
    assert torch.equal(classifier_of(model).logits_of(tokens), want)
    state = dict(model.named_parameters())
    assert torch.equal(torch.func.functional_call(model, state, (), {"pixel_values": pixels}).logits, want)
    twin = copy.deepcopy(model)
    tower(twin.get_base_model())(pixels.flip(0))  # what the copy's tower says belongs to the copy
    assert torch.equal(model(pixel_values=pixels).logits, want) and torch.equal(twin(pixel_values=pixels).logits, want)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(tiny.base(family), str(tmp_path), low_cpu_mem_usage=True).eval()
    assert torch.equal(again(pixel_values=pixels).logits, want)
    plain = tiny.base(family)
    plain.load_adapter(str(tmp_path))
    assert torch.equal(plain.eval()(pixel_values=pixels).logits, want)


@pytest.mark.parametrize("kind", ["ONE_PROMPT", "PROMPT_POOL", "ASYNC_LORA", "SARA", "CPE_CLIP"])
def test_every_adapter_type_hands_out_the_patches_alone(kind):
    model, _ = adapted(tiny.homes(kind)[0], kind)
    outputs = classifier_of(model).outputs(tiny.images(2))
    assert outputs.features.shape == (2, 4, 4, 32) and outputs.logits.shape == (2, 3)
    model.train()(pixel_values=tiny.images(2)).logits.sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters() if "modules_to_save" not in name)


@torch.no_grad()
def test_the_map_comes_with_the_adapter_bypassed_and_the_base_is_itself():
    plain, (model, _) = tiny.base("vit"), adapted("vit")
    pixels = tiny.images(3)
    with model.disable_adapter():
        outputs = classifier_of(model).outputs(pixels)
        assert torch.equal(outputs.logits, plain(pixels).logits)
    assert torch.equal(outputs.features, plain.vit(pixels)[0][:, 1:].unflatten(1, (4, 4)))  # pyright: ignore


@torch.no_grad()
def test_beside_another_adapter_and_gone_with_its_own(tmp_path):
    model, _ = adapted("dinov2")  # whose classifier is twice as wide as its tokens
    pixels = tiny.images(3)
    want = model(pixel_values=pixels).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    other, base = adapted("dinov2", head={"type": "linear"}, names=("x", "y"))
    vectors = other(pixel_values=pixels).logits
    assert not hooks(base)
    other.load_adapter(str(tmp_path), "tokens")
    assert hooks(base) == 1 and torch.equal(other(pixel_values=pixels).logits, vectors)
    other.set_adapter("tokens")
    assert torch.equal(other(pixel_values=pixels).logits, want)
    other.set_adapter("default")
    other.delete_adapter("tokens")
    assert not hooks(base) and torch.equal(other(pixel_values=pixels).logits, vectors)


@torch.no_grad()
def test_unloading_leaves_the_base_and_merging_is_refused():
    plain, (model, base) = tiny.base("vit"), adapted("vit")
    with pytest.raises(ValueError, match="vision tower's patch tokens, which a plain model does not give its classifier"):
        model.merge_and_unload()
    assert hooks(base) == 1
    left = model.unload()
    assert not hooks(left) and left.config.id2label == plain.config.id2label
    assert torch.equal(left(pixel_values=tiny.images(2)).logits, plain(pixel_values=tiny.images(2)).logits)


def test_pictures_that_are_not_square_and_maps_that_are_pooled():
    model, base = adapted("vit", head={**HEAD, "grid": 2})
    pixels = torch.randn(2, 3, 32, 48)
    tokens = base.vit(pixels, interpolate_pos_encoding=True)[0][:, 1:].unflatten(1, (4, 6))
    wrapper = model.base_model.head_wrapper()  # pyright: ignore
    wrapper.capture_features()
    model(pixel_values=pixels, interpolate_pos_encoding=True)
    pooled = wrapper.take_features()
    assert pooled.shape == (2, 2, 2, 32)
    torch.testing.assert_close(pooled[:, 0, 1], tokens[:, :2, 3:].mean((1, 2)))
    torch.testing.assert_close(
        pooled_map(tokens, 4), torch.nn.functional.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1)
    )
    with pytest.raises(ValueError, match="grid 5 asks for more places than the picture has patches, 4 x 6"):
        pooled_map(tokens, 5)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"A maxsim head reads the patch tokens .*base family 'timm'.* It knows those of vit, deit"):
        adapted("timm")
    with pytest.raises(ValueError, match="reads the patch tokens; leave pool out"):
        check_head({**HEAD, "pool": "pooled"})
    base = tiny.base("vit")
    with pytest.raises(ValueError, match="aggregate"):
        get_peft_model(base, tiny.ADAPTERS["GLAD"](class_names=["a"], head={**HEAD, "aggregate": "mean"}))
    assert not hooks(base)
