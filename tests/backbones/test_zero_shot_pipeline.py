"""transformers' zero-shot pipeline with the prompts inside."""

from __future__ import annotations

import pytest
import torch
import two_towers
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, CLIPImageProcessor, SiglipImageProcessor, pipeline

from hf_cl.adapters import CPEClipConfig, GladConfig
from hf_cl.backbones import ClipClassifier, load_tokenizer, load_two_towers

LABELS = ["w10", "w11 w12", "w13"]
HEAD = {"type": "text", "template": "{}.", "logit_scale": "model"}
ADAPTERS = {
    "CPE_CLIP": lambda: CPEClipConfig(class_names=list(LABELS), init_seed=1, head=dict(HEAD)),
    "GLAD": lambda: GladConfig(class_names=list(LABELS), head=dict(HEAD)),
}


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_pipeline_scores_are_the_classifiers(kind, family, tmp_path):
    model = two_towers.base(family)
    if family == "siglip":  # the pipeline pads SigLIP's texts to 64 tokens
        model = _siglip_64()
    model.save_pretrained(tmp_path / "base")
    tokens = two_towers.tokenizer_of(family)
    processor = (SiglipImageProcessor if family == "siglip" else CLIPImageProcessor)(size={"height": 32, "width": 32}, do_center_crop=False)
    for folder in ("base", "adapter"):
        tokens.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
    adapted = get_peft_model(AutoModelForZeroShotImageClassification.from_pretrained(tmp_path / "base"), ADAPTERS[kind]())
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    adapted.save_pretrained(tmp_path / "adapter")

    image = Image.new("RGB", (40, 40), (200, 30, 90))
    loaded = PeftModel.from_pretrained(load_two_towers(str(tmp_path / "base")), tmp_path / "adapter").eval()
    classifier = ClipClassifier(loaded.get_base_model(), loaded.peft_config["default"], load_tokenizer(str(tmp_path / "adapter"))).eval()
    with torch.no_grad():
        logits = classifier(processor(images=image, return_tensors="pt")["pixel_values"])[1][0]
    want = dict(zip(LABELS, (logits.sigmoid() if family == "siglip" else logits.softmax(0)).tolist(), strict=True))

    inside = {"model": loaded.get_base_model(), "tokenizer": tokens, "image_processor": processor}
    for arguments in (inside, {"model": str(tmp_path / "adapter")}):
        classify = pipeline("zero-shot-image-classification", **arguments)
        found = {row["label"]: row["score"] for row in classify(image, candidate_labels=LABELS, hypothesis_template="{}.")}
        assert found == pytest.approx(want, abs=1e-4)
        bare = pipeline("zero-shot-image-classification", model=str(tmp_path / "base"))
        other = {row["label"]: row["score"] for row in bare(image, candidate_labels=LABELS, hypothesis_template="{}.")}
        assert other != pytest.approx(want, abs=1e-4)


def _siglip_64():
    from transformers import SiglipConfig, SiglipModel

    config = two_towers.siglip().config.to_dict()
    config["text_config"]["max_position_embeddings"] = 64
    torch.manual_seed(0)
    return SiglipModel(SiglipConfig(text_config=config["text_config"], vision_config=config["vision_config"])).eval()


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ValueError, match="no base with an image and a text tower under the name"):
        load_two_towers(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no tokenizer under the name"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-B-17'"):
        load_two_towers("open_clip:ViT-B-17")
