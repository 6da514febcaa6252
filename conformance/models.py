"""The models that the cases run on: tiny image classifiers, and peft's own custom models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tests.test_custom_models as suite  # peft's, from the unpacked source
import torch
from torch import Tensor, nn
from transformers import AutoConfig, CLIPConfig, CLIPForImageClassification, PretrainedConfig, ViTConfig, ViTForImageClassification

SIDE = 32
LABELS = 5
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
    "initializer_range": 0.15,  # peft's tests want visible changes after three steps
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 99}


class TinyViT(ViTForImageClassification):
    """A ViT as peft's tests want a model: `X` in, a tensor out, `dtype` assignable."""

    dtype = torch.float32  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(pixel_values=X.to(self.dtype)).logits  # pyright: ignore


class TinyClipVision(CLIPForImageClassification):
    """The vision tower of CLIP with a classifier, in the same way."""

    dtype = torch.float32  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(pixel_values=X.to(self.dtype)).logits  # pyright: ignore


class SizedMLP(suite.MLP):
    """peft's MLP with a config: ASYNC_LORA asks a base for its depth."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig(hidden_size=20, num_hidden_layers=2)


def _vit() -> nn.Module:
    return TinyViT(ViTConfig(**SIZE, num_labels=LABELS, qkv_bias=False))  # a bias of the keys would have no gradient: softmax ignores it


def _clip_vision() -> nn.Module:
    config = CLIPConfig(vision_config={**SIZE, "projection_dim": 16}, text_config=TEXT, projection_dim=16)
    config.num_labels = LABELS
    return TinyClipVision(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {"vit": _vit, "clip_vision": _clip_vision, "SizedMLP": SizedMLP}
"""model id -> model; every other id is one of peft's own."""


class Models:
    """Stands in for a transformers class: peft's tests make their models with `from_pretrained`."""

    @classmethod
    def from_pretrained(cls, model_id: str, dtype: torch.dtype | None = None) -> nn.Module:
        folder = Path(model_id)
        if (folder / "config.json").exists():  # a merged model that the test has saved
            saved: Any = TinyClipVision if AutoConfig.from_pretrained(folder).model_type == "clip" else TinyViT
            return saved.from_pretrained(folder)
        if model_id not in BUILDERS:
            return suite.MockTransformerWrapper.from_pretrained(model_id, dtype=dtype)
        torch.manual_seed(0)
        model: Any = BUILDERS[model_id]()
        model.config._name_or_path = model.name_or_path = model_id  # what peft's tests expect in the saved config
        dtype = dtype or torch.float32
        model = model.to(dtype)
        model.dtype = dtype
        return model


def inputs_for(model_id: str) -> dict[str, Tensor]:
    """What a model takes in peft's tests."""
    if model_id in ("vit", "clip_vision"):
        return {"X": torch.randn(9, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))}
    return {"X": torch.arange(90).view(9, 10)}
