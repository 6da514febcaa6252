"""Tiny random models, one per base family, and one adapter config per type: what the contract suite runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_cl.adapters import (
    AsyncLoraConfig,
    CompanderConfig,
    CPEClipConfig,
    DstConfig,
    GladConfig,
    HyperLoraConfig,
    LowRankConfig,
    MaskTuningConfig,
    OnePromptConfig,
    PromptPoolConfig,
    SaraConfig,
    SessionNormConfig,
)

SIDE = 32
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 99}
NAMES = [f"class {i} <b>'\"" for i in range(9)]


def _clip() -> CLIPConfig:
    return CLIPConfig(vision_config={**SIZE, "projection_dim": 16}, text_config=TEXT, projection_dim=16)


def _siglip() -> SiglipConfig:
    return SiglipConfig(vision_config=SIZE, text_config=TEXT)


def _timm(labels: int) -> nn.Module:
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=labels, model_args={"img_size": SIDE, "depth": 2})
    return TimmWrapperForImageClassification(config)


def _labelled(config: Any, labels: int) -> Any:
    config.num_labels = labels
    return config


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "vit": lambda labels: ViTForImageClassification(ViTConfig(**SIZE, num_labels=labels)),
    "deit": lambda labels: DeiTForImageClassification(DeiTConfig(**SIZE, num_labels=labels)),
    "dinov2": lambda labels: Dinov2ForImageClassification(Dinov2Config(**SIZE, mlp_ratio=2, num_labels=labels)),
    "clip_vision": lambda labels: CLIPForImageClassification(_labelled(_clip(), labels)),
    "siglip_vision": lambda labels: SiglipForImageClassification(_labelled(_siglip(), labels)),
    "clip": lambda labels: CLIPModel(_clip()),
    "siglip": lambda labels: SiglipModel(_siglip()),
    "timm": _timm,
}
CLASSIFIERS = ("vit", "deit", "dinov2", "clip_vision", "siglip_vision")
"""Families with a `...ForImageClassification` class of transformers: the head is their classifier."""


def base(family: str, labels: int = 2, seed: int = 0) -> nn.Module:
    """A tiny base of `family` with seeded random weights, in eval mode."""
    torch.manual_seed(seed)
    return BUILDERS[family](labels).eval()


def images(count: int = 4, seed: int = 5) -> torch.Tensor:
    """[count, 3, SIDE, SIDE]"""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


HYPER = {"embedding_dim": 4, "layer_dim": 4, "hidden_size": 6}

ADAPTERS: dict[str, Callable[..., Any]] = {
    "ASYNC_LORA": lambda **kwargs: AsyncLoraConfig(
        **{"r": 4, "lora_dropout": 0.0, "unfreeze_from": 4, "unfrozen": True, "head": {"type": "linear"}, **kwargs}
    ),
    "ONE_PROMPT": lambda **kwargs: OnePromptConfig(**{"layer_tokens": {0: 2, 1: 2, 2: 4, 3: 4, 4: 4}, **kwargs}),
    "PROMPT_POOL": lambda **kwargs: PromptPoolConfig(**{"producer": "coda", "components_per_session": 2, "e_tokens": 2, **kwargs}),
    "CPE_CLIP": lambda **kwargs: CPEClipConfig(**{"towers": "vision", "prompt_depth": 5, **kwargs}),
    "HYPER_LORA": lambda **kwargs: HyperLoraConfig(**{"r": 4, **HYPER, **kwargs}),
    "GLAD": lambda **kwargs: GladConfig(**{"r": 4, "lora_dropout": 0.0, **kwargs}),
    "SARA": lambda **kwargs: SaraConfig(**{"density": 0.1, **kwargs}),
    "MASK_TUNING": MaskTuningConfig,
    "DST": lambda **kwargs: DstConfig(**{"density": 0.1, **kwargs}),
    "COMPANDER": lambda **kwargs: CompanderConfig(**{"learn": True, **kwargs}),
    "SESSION_NORM": lambda **kwargs: SessionNormConfig(**{"conditioning": "table", "domains": ["day", "night"], **kwargs}),
    "LOW_RANK": LowRankConfig,
}
"""peft type -> a config for the tiny bases; keywords override."""

OTHER: dict[str, Callable[..., Any]] = {
    "ASYNC_LORA": lambda **kwargs: AsyncLoraConfig(
        **{"r": 2, "lora_dropout": 0.0, "unfreeze_from": 5, "head": {"type": "linear"}, **kwargs}
    ),
    "ONE_PROMPT": lambda **kwargs: OnePromptConfig(layer_tokens={1: 7}, **kwargs),
    "PROMPT_POOL": lambda **kwargs: PromptPoolConfig(producer="l2p", e_layers=[0, 2], pool_size=4, top_k=2, e_tokens=3, **kwargs),
    "CPE_CLIP": lambda **kwargs: CPEClipConfig(**{"towers": "vision", "num_prompt_tokens": 3, "vision_mode": "replace", **kwargs}),
    "HYPER_LORA": lambda **kwargs: HyperLoraConfig(**{"r": 2, **HYPER, "target_modules": ["fc1"], "grow_hidden": 2, **kwargs}),
    "GLAD": lambda **kwargs: GladConfig(r=2, lora_dropout=0.0, **kwargs),
    "SARA": lambda **kwargs: SaraConfig(threshold=5e-3, target_modules=["q_proj", "fc1"], **kwargs),
    "DST": lambda **kwargs: DstConfig(density=0.03, init="erk", target_modules=["q_proj", "fc1"], **kwargs),
    "MASK_TUNING": lambda **kwargs: MaskTuningConfig(threshold=0.1, init_value=0.2, target_modules=["q_proj", "fc1"], **kwargs),
    "COMPANDER": lambda **kwargs: CompanderConfig(mode="residual", target_modules=["q_proj", "fc1"], **kwargs),
    "SESSION_NORM": lambda **kwargs: SessionNormConfig(
        conditioning="interpolate", codes={"0": 0, "9": 9}, domains=["0"], layers_to_transform=[1], **kwargs
    ),
    "LOW_RANK": lambda **kwargs: LowRankConfig(ratio=4.0, target_modules=["q_proj", "fc1"], **kwargs),
}
"""A second config of each type, of another size."""

RESTING = {"PROMPT_POOL": {"grows": False}, "DST": {"grows": False}}
"""Options under which a new class changes nothing of what is known; none where that is so anyway."""

_POOL = {"e_tokens": 2, "pool_size": 4}
PRODUCERS: dict[str, dict[str, Any]] = {
    "l2p": {"producer": "l2p", "top_k": 2, **_POOL},
    "dual": {"producer": "dual", "e_layers": [2], "e_tokens": 2, "g_tokens": 2},
    "mvp": {"producer": "mvp", "g_tokens": 2, "head": {"type": "instance_mask", "pool_size": 4}, **_POOL},
}
"""Of PROMPT_POOL, beside the one above: their keys learn by losses of their own, not by logits."""
ADAPTERS_OF_PRODUCERS: dict[str, Callable[..., Any]] = {
    f"PROMPT_POOL/{name}": lambda options=options, **kwargs: PromptPoolConfig(**{**kwargs, **options})
    for name, options in PRODUCERS.items()
}

ON_WEIGHTS = ("SARA", "COMPANDER", "MASK_TUNING", "DST", "LOW_RANK")
"""Types whose layers stand around Linears, whichever family these are of."""

HOMES = {"CPE_CLIP": ("clip_vision", "siglip_vision")}
"""Two families on which the tests run that need no more; ViT and Dinov2 where a type is not named."""


def families(kind: str) -> tuple[str, ...]:
    """Families on which the contract suite runs a type: all that have a classifier, or two where the layers are the same on all."""
    return homes(kind) if kind in (*ON_WEIGHTS[1:], "SESSION_NORM") else CLASSIFIERS


def homes(kind: str) -> tuple[str, str]:
    return HOMES.get(kind, ("vit", "dinov2"))
