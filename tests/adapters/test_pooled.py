"""Image heads on a CLIP or SigLIP vision tower's pooled output (`pool: pooled`): taken by a hook that comes and goes with the adapter."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model

from hf_cl.backbones import classifier_of
from hf_cl.heads import build_head, check_head

HEAD = {"type": "linear", "pool": "pooled"}
FAMILIES = ["clip_vision", "siglip_vision"]


def adapted(family: str, head=HEAD, names=("a", "b", "c")):
    """(model, its base); weights of the head away from their start."""
    base = tiny.base(family)
    config = tiny.ADAPTERS["ONE_PROMPT"](class_names=list(names), classes_per_session=[len(names)], head=dict(head))
    model = get_peft_model(base, config).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.base_model.head_wrapper().head("default").weight)  # pyright: ignore
    return model, base


def hooks(base) -> int:
    return len(base.vision_model._forward_hooks)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_the_pooled_output(family):
    model, base = adapted(family)
    pixels = tiny.images(3)
    pooled = base.vision_model(pixels).pooler_output
    head = model.base_model.head_wrapper().head("default")
    assert torch.equal(model(pixel_values=pixels).logits, head(pooled))
    outputs = classifier_of(model).outputs(pixels)
    assert torch.equal(outputs.features, pooled) and torch.equal(outputs.logits, head(pooled))


@torch.no_grad()
def test_without_it_features_are_those_of_the_models_class():
    model, base = adapted("clip_vision", {"type": "linear"})
    tokens = base.vision_model(tiny.images(3)).last_hidden_state
    assert torch.equal(classifier_of(model).outputs(tiny.images(3)).features, tokens[:, 1:].mean(1))
    assert not hooks(base)


@torch.no_grad()
def test_features_that_are_judged_alone_are_those_given():
    model, base = adapted("clip_vision")
    classifier = classifier_of(model)
    features = torch.randn(3, base.config.vision_config.hidden_size)
    base.vision_model(tiny.images(3))  # run by itself
    assert torch.equal(classifier.logits_of(features), classifier.head(features))


@torch.no_grad()
def test_the_bypassed_model_is_the_base_and_gives_pooled_features():
    plain, (model, _) = tiny.base("clip_vision"), adapted("clip_vision")
    pixels = tiny.images(3)
    want = plain(pixel_values=pixels).logits
    with model.disable_adapter():
        outputs = classifier_of(model).outputs(pixels)
        assert torch.equal(outputs.logits, want) and torch.equal(model(pixel_values=pixels).logits, want)
    assert torch.equal(outputs.features, plain.vision_model(pixels).pooler_output)


def test_a_gradient_reaches_the_adapter_through_it():
    base = tiny.base("clip_vision")
    model = get_peft_model(base, tiny.ADAPTERS["GLAD"](class_names=["a", "b"], classes_per_session=[2], head=HEAD))
    model(pixel_values=tiny.images(2)).logits.sum().backward()
    trained = [p for name, p in model.named_parameters() if "lora_B" in name and "vision_model" in name]
    assert trained and any(p.grad is not None and bool(p.grad.any()) for p in trained)


@torch.no_grad()
def test_it_comes_back_with_the_adapter_and_beside_another(tmp_path):
    model, _ = adapted("clip_vision")
    pixels = tiny.images(3)
    want = model(pixel_values=pixels).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(tiny.base("clip_vision"), str(tmp_path)).eval()
    assert torch.equal(again(pixel_values=pixels).logits, want)
    other, other_base = adapted("clip_vision", {"type": "linear"}, names=("x", "y"))
    means = other(pixel_values=pixels).logits
    other.load_adapter(str(tmp_path), "pooled")
    assert hooks(other_base) == 1 and torch.equal(other(pixel_values=pixels).logits, means)
    other.set_adapter("pooled")
    assert torch.equal(other(pixel_values=pixels).logits, want)
    other.set_adapter("default")
    other.delete_adapter("pooled")
    assert not hooks(other_base) and torch.equal(other(pixel_values=pixels).logits, means)


@torch.no_grad()
def test_a_copy_is_a_model_of_its_own():
    model, _ = adapted("clip_vision")
    twin = copy.deepcopy(model)
    pixels, others = tiny.images(3), tiny.images(3).flip(0)
    want = model(pixel_values=pixels).logits
    twin.base_model.model.vision_model(others)  # pyright: ignore
    assert torch.equal(model(pixel_values=pixels).logits, want) and torch.equal(twin(pixel_values=pixels).logits, want)


@torch.no_grad()
def test_unloading_leaves_the_base_and_merging_is_refused():
    plain, (model, base) = tiny.base("clip_vision"), adapted("clip_vision")
    with pytest.raises(ValueError, match="nothing can be merged that would classify alike"):
        model.merge_and_unload()
    assert hooks(base) == 1
    left = model.unload()
    assert not hooks(left) and left.config.id2label == plain.config.id2label
    assert torch.equal(left(pixel_values=tiny.images(2)).logits, plain(pixel_values=tiny.images(2)).logits)


def test_what_is_refused():
    for family in ("vit", "dinov2"):
        with pytest.raises(ValueError, match="pool: pooled is for the vision tower of a CLIP or SigLIP"):
            adapted(family)
    with pytest.raises(ValueError, match="pool of a head is pooled"):
        check_head({"type": "ridge", "pool": "mean"})
    with pytest.raises(ValueError, match="leave pool out"):
        check_head({"type": "text", "pool": "pooled"})
    assert build_head({"type": "ridge", "pool": "pooled"}, 4, 2).num_classes == 2


def test_a_refused_injection_leaves_no_hook():
    base = tiny.base("clip_vision")
    config = tiny.ADAPTERS["ONE_PROMPT"](class_names=["a"], head={**HEAD, "bias": 3})
    with pytest.raises(ValueError, match="bias"):
        get_peft_model(base, config)
    assert not hooks(base)
