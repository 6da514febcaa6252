"""The official OVOR numbers and the tiny float64 ViT they were computed on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from hf_cl.adapters import OnePromptConfig

FOLDER = Path(__file__).parent / "reference" / "ovor"
PROMPTS = {"g_p_0": 0, "g_p_1": 1, "e_p_2": 2, "e_p_3": 3, "e_p_4": 4}
"""The official name of a prompt -> its layer."""
LAYER_TOKENS = {0: 2, 1: 2, 2: 4, 3: 4, 4: 4}
SEEN = (3, 6)
"""Classes before and after the session of the fixtures (session 1 of two with three classes each)."""
CLASSES = [f"class {i}" for i in range(6)]


@cache
def load(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def vit() -> ViTForImageClassification:
    """The tiny ViT in float64. sdpa: ViT's eager attention computes its softmax in float32."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=16,
        patch_size=4,
        layer_norm_eps=1e-6,
        num_labels=0,
        attn_implementation="sdpa",
    )
    model = ViTForImageClassification(config).double().eval()
    model.vit.load_state_dict(load_file(FOLDER / "vit_hf523.safetensors"), strict=True)
    return model


@torch.no_grad()
def prompted_vit(prompts: dict[str, Tensor], weight: Tensor, bias: Tensor):
    """ONE_PROMPT on the tiny ViT with the official prompts and head."""
    model = get_peft_model(vit(), OnePromptConfig(layer_tokens=LAYER_TOKENS, class_names=list(CLASSES)), autocast_adapter_dtype=False)
    model.double()
    for name, index in PROMPTS.items():
        layer, half = model.base_model.model.vit.layers[index].attention, len(prompts[name]) // 2
        layer.one_prompt_k["default"].copy_(prompts[name][:half])
        layer.one_prompt_v["default"].copy_(prompts[name][half:])
    head = model.base_model.head_wrapper().head("default")
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    return model.eval()
