"""ASYNC_LORA as a stock LORA adapter."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from hf_cl.adapters.async_lora.config import AsyncLoraConfig
from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.heads import LinearHead

logger = logging.getLogger(__name__)


def write_lora(folder: Path, config: AsyncLoraConfig, adapter_name: str, model: nn.Module) -> None:
    """Write adapter_config.json and adapter_model.safetensors, which peft alone can load."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for matrix in "AB":
            ours = f".async_lora_{matrix}.{adapter_name}."
            if ours in name:
                tensors[f"base_model.model.{name.replace(ours, f'.lora_{matrix}.')}"] = parameter.detach().contiguous()
    saved_modules = None
    for path, module in model.named_modules():
        if not isinstance(module, HeadWrapper) or adapter_name not in module.modules_to_save:
            continue
        head = module.head(adapter_name)
        if type(head) is LinearHead:
            saved_modules = [path]
            bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias  # the stock classifier has one
            rows, bias = (tensor.detach() / (config.temperature or 1.0) for tensor in (head.weight, bias))
            tensors |= {f"base_model.model.{path}.weight": rows, f"base_model.model.{path}.bias": bias}
        else:
            logger.warning("A %s is no plain linear layer: the LORA adapter in %s has the encoder only.", type(head).__name__, folder)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=config.lora_dropout,
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
