"""Adapters with something in them."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from tiny import NAMES, base

from hf_cl.adapters import AsyncLoraConfig

PLAIN_HEAD = {"type": "linear", "bias": False}


def student(family: str = "vit", adapter: str = "default", names=NAMES[:3], **kwargs) -> PeftModel:
    """ASYNC_LORA on a tiny base, in eval mode, its LoRA and rows moved off their initial values."""
    settings = {"r": 4, "lora_dropout": 0.0, "unfreeze_from": 4, "class_names": names and list(names), "head": PLAIN_HEAD, **kwargs}
    model = get_peft_model(base(family), AsyncLoraConfig(**settings), adapter_name=adapter)
    move(model, ("async_lora_A", "async_lora_B", "modules_to_save"))
    return model.eval()


@torch.no_grad()
def move(model: torch.nn.Module, marks=("async_lora_copy",), seed: int = 1) -> None:
    """Add noise to the parameters whose names hold one of the marks."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in marks):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def unfrozen_student(family: str = "vit", **kwargs) -> PeftModel:
    """The same with copies in use that differ from the base."""
    model = student(family, **kwargs)
    model.base_model.unfreeze()
    move(model)
    return model
