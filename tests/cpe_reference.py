"""The reference numbers of CPE-CLIP and the tiny models they were computed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import two_towers
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from hf_cl.adapters import CPEClipConfig
from hf_cl.backbones import ClipClassifier

FOLDER = Path(__file__).parent / "reference" / "cpe_clip"
META: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text())
SETTINGS: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
TOLERANCE: dict[str, Any] = META["tolerance"]
CASES = ("default", "depth3", "shallow", "vreplace")
CLASS_NAMES = [" ".join(f"w{token}" for token in tokens) for tokens in META["class_name_tokens"]]
BASES = ("sdpa", "eager", "open_clip")


def arrays(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def base(kind: str) -> nn.Module:
    model = CLIPModel(CLIPConfig.from_pretrained(FOLDER))
    model.load_state_dict(arrays("weights_tiny"), strict=False)
    if kind == "open_clip":
        return two_towers.to_open_clip(model)
    model.set_attn_implementation(kind)
    return model.eval()


def adapted(kind: str, config: CPEClipConfig, values: dict[str, Tensor], prefix: str) -> PeftModel:
    """The base with prompts from the reference."""
    model = get_peft_model(base(kind), config)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in prompts(model).items():
            parameter.copy_(values[f"{prefix}/{name}"])
    return model


def prompts(model: nn.Module) -> dict[str, nn.Parameter]:
    """The three tensors under the reference's names."""
    layer: Any = next(m for m in model.modules() if hasattr(m, "cpe_clip_prompts"))
    linear = layer.cpe_clip_proj["default"]
    return {"g_values": layer.cpe_clip_prompts["default"], "proj_weight": linear.weight, "proj_bias": linear.bias}


def case_config(case: str, class_names: list[str] = CLASS_NAMES) -> CPEClipConfig:
    settings = SETTINGS[case]
    return CPEClipConfig(
        num_prompt_tokens=settings["L_g"],
        prompt_depth=settings["deep_g"],
        vision_mode=settings["vision_mode"],
        class_names=list(class_names),
    )


def classifier(model: PeftModel) -> ClipClassifier:
    return ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer())  # pyright: ignore


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
