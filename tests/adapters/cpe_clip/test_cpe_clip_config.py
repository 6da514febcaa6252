"""What a CPE_CLIP config refuses, and how."""

from __future__ import annotations

import pytest
import two_towers
from open_clip.model import CLIP
from peft import get_peft_model

from hf_cl.adapters import CPEClipConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_mode": "accumulate"}, "text_mode 'accumulate' is not supported"),
        ({"text_mode": "accumulate_same"}, "text_mode 'accumulate_same' is not supported"),
        ({"vision_mode": "accumalate"}, "Did you mean 'accumulate'"),
        ({"towers": "texts"}, "Did you mean 'text'"),
        ({"coupling": "linear"}, "coupling must be one of"),
        ({"num_prompt_tokens": 0}, "num_prompt_tokens must be a whole number"),
        ({"prompt_depth": 0}, "prompt_depth must be a whole number"),
        ({"prompt_depth": 1.5}, "prompt_depth cannot be 1.5"),
        ({"init": "words"}, "needs init_text"),
        ({"init": "words", "init_text": "a", "towers": "vision"}, "towers is 'vision'"),
        ({"class_names": ["a", "a"]}, "more than once"),
        ({"class_names": ["a", " "]}, "non-empty"),
        ({"format_version": 99}, "format_version 99"),
        ({"head": {"type": "text", "tempate": "{}"}}, "Did you mean 'template'"),
    ],
)
def test_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        CPEClipConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ["w10_w11", "w10 w11"]}, "have the same text 'w10 w11.'"),
        ({"class_names": ["w10", "_"]}, "'_' is empty"),
        ({"num_prompt_tokens": 22}, "leaves no room for a class name"),
        ({"class_names": ["w10"], "head": {"type": "linear"}}, "has no classifier"),
    ],
)
def test_refused_at_injection(settings, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(two_towers.base("clip"), CPEClipConfig(**settings))


def test_resnet_towers_are_refused():
    vision = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8}
    model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg={"vocab_size": 64, "width": 32, "heads": 4, "layers": 2})
    with pytest.raises(ValueError, match=r"CPE_CLIP needs open_clip's own vision transformer; .* ModifiedResNet"):
        get_peft_model(model, CPEClipConfig())


def test_open_clip_text_towers_that_do_not_fit_are_refused():
    model = two_towers.custom_text()
    model.text.use_pad_mask = True
    with pytest.raises(ValueError, match="padding mask"):
        get_peft_model(model, CPEClipConfig())
    model = two_towers.open_clip()
    model.text_pool_type = "first"
    with pytest.raises(ValueError, match="pooling 'first'"):
        get_peft_model(model, CPEClipConfig())
