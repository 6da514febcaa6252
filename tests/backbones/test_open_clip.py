"""open_clip bases by name: weights that are the same at every load, and the preprocessing that belongs to them."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw

from hf_cl.backbones import load_backbone, load_processor

SMALL = "ViT-S-32-alt"


@pytest.mark.parametrize("load", [load_backbone, load_processor])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (SMALL, r"names no weights, and would be random, another at every load.*open_clip:ViT-S-32-alt/random-0"),
        ("ViT-B-32", "its weights are openai, "),
        ("ViT-B-32/openay", "Did you mean 'openai'"),
        ("ViT-B-17/openai", "open_clip has no model 'ViT-B-17'"),
    ],
)
def test_a_base_without_its_weights_is_refused(load, name, message):
    with pytest.raises(ValueError, match=message):
        load(f"open_clip:{name}")


def test_random_weights_are_those_of_the_seed():
    before = torch.get_rng_state()
    one, again, other = (load_backbone(f"open_clip:{SMALL}/random-{seed}").state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["visual.conv1.weight"], other["visual.conv1.weight"])


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("ViT-B-32", "openai"), ("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-L-14-CLIPA", "datacomp1b"), ("ViT-H-14-quickgelu", "dfn5b")],
)
def test_pictures_are_prepared_as_the_weights_were_trained(architecture, weights):
    listed = open_clip.get_pretrained_cfg(architecture, weights)
    side = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    known = {key: listed[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in listed}
    theirs = image_transform_v2(PreprocessCfg(size=side, **known), is_train=False)
    ours = load_processor(f"open_clip:{architecture}/{weights}")
    wide = Image.new("RGB", (640, 360), (200, 30, 30))
    ImageDraw.Draw(wide).rectangle((0, 0, 140, 360), fill=(0, 0, 255))
    for picture in (wide, wide.resize((360, 360))):
        mine = ours(images=[picture], return_tensors="pt")["pixel_values"][0]
        assert (theirs(picture) - mine).abs().max() < 0.1
