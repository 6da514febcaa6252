"""The small CLIP that ships with hf_cl: found by name, whole or as its image tower, and it knows something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from sklearn.datasets import load_sample_image
from tiny import ADAPTERS

from hf_cl import load, load_backbone, load_processor
from hf_cl.backbones import ClipClassifier, demo_backbone, load_tokenizer, load_two_towers
from hf_cl.backbones.loading import shared_name

NAMES = ["flower", "temple", "car"]
HEAD = {"type": "text", "template": "a photo of a {}.", "logit_scale": "model"}


def test_its_names():
    assert shared_name("/another/environment/hf_cl/demo/clip_tiny_demo") == "demo_clip"
    assert shared_name("/another/environment/clip_tiny_demo") == "/another/environment/clip_tiny_demo"
    assert demo_backbone() == demo_backbone("demo")
    with pytest.raises(ValueError, match="No base 'demo_vit' ships with hf_cl; demo and demo_clip do"):
        demo_backbone("demo_vit")


def test_it_names_what_is_on_a_picture():
    model, tokenizer = load_two_towers("demo_clip").eval(), load_tokenizer("demo_clip")
    classifier = ClipClassifier(model, ADAPTERS["GLAD"](class_names=NAMES, head=HEAD), tokenizer).eval()
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("flower.jpg", "china.jpg")]
    pixels = load_processor("demo_clip")(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        assert classifier.outputs(pixels).logits.argmax(1).tolist() == [0, 1]


def test_the_image_tower_alone_is_the_same():
    whole, tower = load_two_towers("demo_clip").eval(), load_backbone("demo_clip").eval()
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(whole.vision_model(pixels).pooler_output, tower.vision_model(pixels).pooler_output)


@pytest.mark.parametrize("head", [HEAD, {"type": "linear"}], ids=["text", "linear"])
def test_an_adapter_on_it_is_found_wherever_hf_cl_is_installed(tmp_path: Path, head):
    base = (load_two_towers if head["type"] == "text" else load_backbone)("demo_clip")
    model = get_peft_model(base, ADAPTERS["GLAD"](class_names=NAMES, classes_per_session=[3], head=head))  # pyright: ignore
    model.peft_config["default"].base_model_name_or_path = "/another/environment/hf_cl/demo/clip_tiny_demo"
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    load_processor("demo_clip").save_pretrained(tmp_path)
    assert load(tmp_path).class_names == NAMES
