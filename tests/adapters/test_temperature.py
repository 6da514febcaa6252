"""The temperature of an adapter's config divides its logits in eval mode, by every way to the model."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import tiny
import torch
import two_towers
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import AutoModelForImageClassification, ViTImageProcessor, pipeline

from hf_cl.adapters.unloaded import CalibratedHead
from hf_cl.backbones import classifier_of
from hf_cl.contracts import Head
from hf_cl.hub.load import load

NAMES = ["ant", "bee", "crab"]
T = 0.25  # a power of two: dividing by it rounds nothing


def adapted(temperature=None, head="cosine", kind="GLAD", family="vit"):
    torch.manual_seed(3)
    model = get_peft_model(tiny.base(family), tiny.ADAPTERS[kind](class_names=list(NAMES), head={"type": head}, temperature=temperature))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model, pixels=None):
    with torch.no_grad():
        return model(pixel_values=tiny.images() if pixels is None else pixels).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and an adapter on it, with a temperature."""
    place = tmp_path_factory.mktemp("calibrated")
    tiny.base("vit").save_pretrained(place / "base")
    model = adapted(T)
    model.peft_config["default"].base_model_name_or_path = str(place / "base")
    model.save_pretrained(place / "adapter", save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(place / "adapter")
    return place


def base(folder):
    return AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=2)


def test_every_way_to_the_model_divides_once(folder):
    raw = logits(adapted())
    want = raw / T
    assert torch.equal(logits(adapted(T)), want)
    assert torch.equal(logits(PeftModel.from_pretrained(base(folder), folder / "adapter").eval()), want)
    loaded = base(folder)
    loaded.load_adapter(str(folder / "adapter"))
    assert torch.equal(logits(loaded.eval()), want)
    classifier = load(folder / "adapter")
    assert torch.equal(classifier.logits_of(tiny.images()), want)
    features = classifier.classifier.outputs(tiny.images()).features
    assert torch.equal(classifier.classifier.logits_of(features), want)
    picture = Image.new("RGB", (40, 40), (200, 30, 90))
    (found,) = [classifier.predict(picture, top_k=3)[0]]
    processor = ViTImageProcessor.from_pretrained(folder / "adapter")
    piped = pipeline("image-classification", model=loaded, image_processor=processor)(picture, top_k=3)
    assert [p.name for p in found] == [p["label"] for p in piped]
    assert [p.score for p in found] == pytest.approx([p["score"] for p in piped], abs=1e-6)


def test_training_and_the_base_know_no_temperature(folder):
    model = adapted(T)
    assert torch.equal(model.train()(pixel_values=tiny.images()).logits, adapted().train()(pixel_values=tiny.images()).logits)
    model.eval()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny.base("vit")))
    assert torch.equal(logits(model), logits(adapted()) / T)


def test_the_active_adapter_s_temperature_counts_and_a_copy_has_its_own(folder):
    model = adapted(T)
    other = tiny.ADAPTERS["GLAD"](class_names=["x", "y"], head={"type": "cosine"})
    model.add_adapter("other", other)
    model.set_adapter("other")
    raw = logits(model)
    other.temperature = 2.0
    assert torch.equal(logits(model), raw / 2)
    twin = deepcopy(model)
    other.temperature = None
    assert torch.equal(logits(model), raw) and torch.equal(logits(twin), raw / 2)
    model.set_adapter("default")
    assert torch.equal(logits(model), logits(adapted()) / T)


def test_adapters_without_the_field_load_as_before(folder, tmp_path):
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config.pop("temperature") == T
    old = tmp_path / "old"
    old.mkdir()
    (old / "adapter_config.json").write_text(json.dumps(config))
    (old / "adapter_model.safetensors").write_bytes((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert torch.equal(logits(PeftModel.from_pretrained(base(folder), old).eval()), logits(adapted()))


@pytest.mark.parametrize("head", ["linear", "cosine", "prototype"])
def test_what_is_left_after_a_merge_or_an_unload_has_it_too(head):
    want = logits(adapted(T, head))
    merged = adapted(T, head).merge_and_unload()
    torch.testing.assert_close(logits(merged), want, rtol=1e-5, atol=1e-4)
    left = merged.classifier
    assert isinstance(left, CalibratedHead) == (head != "linear") and isinstance(left, Head) == (head != "linear")
    if head == "linear":
        assert type(left) is torch.nn.Linear
        return
    torch.testing.assert_close(merged.train()(pixel_values=tiny.images()).logits, want * T, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=f"hf_cl's {head.capitalize()}Head, for which transformers has no layer"):
        merged.save_pretrained("nowhere")


def test_a_text_head_divides_in_eval_mode_alone():
    config = tiny.ADAPTERS["GLAD"](class_names=["ant", "bee"], head={"type": "text"})
    model = get_peft_model(two_towers.base("clip"), config)
    classifier = classifier_of(model, two_towers.tokenizer_of("clip")).eval()
    pixels = two_towers.images(2)
    with torch.no_grad():
        raw = classifier.outputs(pixels).logits
        config.temperature = T
        assert torch.equal(classifier.outputs(pixels).logits, raw / T)
        torch.testing.assert_close(classifier.train().outputs(pixels).logits, raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), "hot", True])
def test_what_is_no_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        tiny.ADAPTERS["GLAD"](temperature=temperature)
