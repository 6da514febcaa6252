"""LoRA factors as a stock LORA adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.heads import LinearHead, SessionLinearHead

logger = logging.getLogger(__name__)


def save_lora(
    folder: Path, config: Any, factors: Mapping[str, tuple[Tensor, Tensor]], adapter_name: str, model: nn.Module, dropout: float = 0.0
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, which peft alone can load.

    Args:
        folder: where to.
        config: of the adapter that they come from: rank, alpha, targets, temperature and base.
        factors: path of a Linear -> A [r, in] and B [out, r].
        adapter_name: whose head goes with them, where it is linear.
        model: that has it.
        dropout: on the input of the LoRA branch.
    """
    tensors = {}
    for path, pair in factors.items():
        for matrix, values in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{path}.lora_{matrix}.weight"] = values.detach().contiguous()
    saved_modules = None
    for path, module in model.named_modules():
        if not isinstance(module, HeadWrapper) or adapter_name not in module.modules_to_save:
            continue
        head = module.head(adapter_name)
        if isinstance(head, LinearHead) and type(head) in (LinearHead, SessionLinearHead):
            saved_modules = [path]
            bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias  # the stock classifier has one
            rows, bias = (tensor.detach() / (config.temperature or 1.0) for tensor in (head.weight, bias))
            tensors |= {f"base_model.model.{path}.weight": rows, f"base_model.model.{path}.bias": bias}
        else:
            logger.warning("A %s is no plain linear layer: the LORA adapter in %s has the encoder only.", type(head).__name__, folder)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=dropout,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern if config.layers_to_transform is not None else None,
        modules_to_save=saved_modules,
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    lora.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors")
