"""Small runs of CoACT in the loop."""

from __future__ import annotations

from pathlib import Path

import torch
from coact_reference import vit
from safetensors.torch import load_file
from stream import Stream
from transformers import ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import AsyncLoraConfig
from hf_cl.methods.coact import coact


def build(folder: Path, *probes, sessions: int = 3, lora_dropout: float = 0.1, settings=None, **kwargs) -> ContinualTrainer:
    """Sessions of 18 images of two classes; block 3 is unfrozen in the second of session 0's two epochs."""
    adapter = AsyncLoraConfig(r=4, lora_dropout=lora_dropout, unfreeze_from=3, unfreeze_epoch=1, ema_decay=0.9)
    values = {"epochs": 2, "learning_rate": 0.05, "encoder_lr_factor": 0.5, "incremental_lr_factor": 0.5}
    method = coact(adapter=adapter, **{**values, "incremental_train": "classifier+lora", **kwargs})
    run = {"batch_size": 8, "augmentation": "strong", "cpu": True, "num_workers": 1, **(settings or {})}
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    trained = TrainingSettings(output_dir=str(folder), **run)
    return ContinualTrainer(vit(), processor, method, Stream(sessions), trained, probes=probes)


def files(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The adapter of each session."""
    return [load_file(path / "adapter_model.safetensors") for path in sorted((folder / "adapters").iterdir())]
