"""The names of the tensors in each type's file: adapters that are on the Hub have them, so they stay."""

from __future__ import annotations

import pytest
from peft import get_peft_model
from safetensors.torch import load_file
from tiny import ADAPTERS, NAMES, base, homes

UNFROZEN_LEAVES = [
    "layernorm",
    *(f"layers.{i}.attention.{m}_proj" for i in (4, 5) for m in "qkvo"),
    *(f"layers.{i}.{m}" for i in (4, 5) for m in ("layernorm_before", "layernorm_after", "mlp.fc1", "mlp.fc2")),
]
MATRICES = [f"layers.{i}.{m}" for i in range(6) for m in (*(f"attention.{p}_proj" for p in "qkvo"), "mlp.fc1", "mlp.fc2")]
NORMS = ["layernorm", *(f"layers.{i}.layernorm_{side}" for i in range(6) for side in ("before", "after"))]
GOLDEN_KEYS = {
    "ASYNC_LORA": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.layers.{i}.attention.{m}_proj.async_lora_{ab}.weight" for i in range(6) for m in "qv" for ab in "AB"),
        *(f"base_model.model.vit.{leaf}.async_lora_copy.{wb}" for leaf in UNFROZEN_LEAVES for wb in ("weight", "bias")),
    },
    "ONE_PROMPT": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.layers.{i}.attention.one_prompt_{kv}" for i in range(5) for kv in "kv"),
    },
    "HYPER_LORA": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(
            f"base_model.model.vit.layers.0.attention.q_proj.hyper_lora_generator.{name}"
            for name in (
                *("weight_ih", "weight_hh", "bias_ih", "bias_hh", "codes", "embedding", "past", "means"),
                *(f"{kind}_{ab}_32x32" for kind in ("head", "bias") for ab in "ab"),
            )
        ),
    },
    "PROMPT_POOL": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.layers.{i}.attention.prompt_pool_{kind}" for i in range(5) for kind in "kap"),
        *(f"base_model.model.vit.layers.{i}.attention.prompt_pool_past_{kind}" for i in range(5) for kind in "kap"),
    },
    "CPE_CLIP": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        "base_model.model.vision_model.pre_layrnorm.cpe_clip_prompts",
    },
    "GLAD": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.layers.{i}.attention.{m}_proj.lora_{ab}.weight" for i in range(6) for m in "qkv" for ab in "AB"),
    },
    "DST": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.{leaf}.dst_{part}" for leaf in MATRICES for part in ("values", "indices")),
    },
    "MASK_TUNING": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.layers.{i}.attention.{p}_proj.mask_tuning_bits" for i in range(6) for p in "qkvo"),
    },
    "LOW_RANK": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.{leaf}.low_rank_{part}" for leaf in MATRICES for part in ("down", "up", "bias")),
    },
    "COMPANDER": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.{leaf}.compander_{part}" for leaf in MATRICES for part in ("A", "B", "logs", "start")),
    },
    "SESSION_NORM": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        "base_model.model.vit.layers.0.layernorm_before.session_norm_rule",
        *(f"base_model.model.vit.{norm}.session_norm_{part}" for norm in NORMS for part in ("scale", "shift")),
    },
    "SARA": {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
        *(f"base_model.model.vit.{leaf}.sara_{part}" for leaf in MATRICES for part in ("values", "indices")),
    },
}


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_golden_keys_of_the_file(kind, tmp_path):
    model = get_peft_model(base(homes(kind)[0]), ADAPTERS[kind](class_names=NAMES[:3], head={"type": "linear"}))
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == GOLDEN_KEYS[kind]
