"""One small run of each of the five methods: two towers or a ViT of a few thousand parameters, noise for images, seconds on one core."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import two_towers
from safetensors.torch import load_file
from stream import Stream
from tiny import SIZE
from transformers import CLIPImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import AsyncLoraConfig, GladConfig, SaraConfig
from hf_cl.contracts import Method
from hf_cl.losses import VirtualOutliers
from hf_cl.methods.coact import coact
from hf_cl.methods.cpe_clip import cpe_clip
from hf_cl.methods.glad import glad
from hf_cl.methods.ovor import ovor
from hf_cl.methods.sara import sara

METHODS = ("ovor", "coact", "sara", "cpe_clip", "glad")
WITH_TEXT = ("cpe_clip", "glad")


class NamedStream(Stream):
    """The stream with names that the tokenizer of two_towers tells apart."""

    def __init__(self, sessions: int) -> None:
        super().__init__(sessions)
        self.names = self.class_names = tuple(f"w{10 + i}" for i in range(2 * sessions))


def method(name: str, dropout: float) -> Method:
    """The method with settings that take few steps and touch everything it has."""
    match name:
        case "ovor":
            outliers = VirtualOutliers(k=5, num_offsets=30, num_boundary=6, per_class=6)
            return ovor(epochs=2, vor_epochs=1, outliers=outliers, head={"type": "prototype"}, learning_rate=1e-2)
        case "coact":
            head = {"type": "linear", "bias": False, "pooler": False}
            adapter = AsyncLoraConfig(head=head, r=4, lora_dropout=dropout, unfreeze_from=1, unfreeze_epoch=1, ema_decay=0.9)
            return coact(adapter=adapter, epochs=2, learning_rate=0.05, incremental_train="classifier+lora")
        case "sara":
            ranks = {"lambda_rank": 5e-4, "rank_min_dim": 8, "rank_min_nnz": 5}
            return sara(adapter=SaraConfig(density=0.05, progressive_iter=4, **ranks), epochs=2)
        case "cpe_clip":
            return cpe_clip(base_epochs=2, session_epochs=2, session_batch_size=4)
        case "glad":
            return glad(adapter=GladConfig(rule="glad", lora_dropout=dropout), iterations=5, session_iterations=5)
    raise ValueError(name)


def build(name: str, folder: Path, *, sessions: int = 2, dropout: float = 0.1, probes=(), **settings: Any) -> ContinualTrainer:
    """A trainer of the method that has not begun."""
    torch.manual_seed(0)
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "crop_flip", "cpu": True, "num_workers": 1, **settings}
    run = TrainingSettings(output_dir=str(folder), **values)
    size = {"height": 32, "width": 32}
    if name in WITH_TEXT:
        base, processor, tokenizer = two_towers.clip(), CLIPImageProcessor(size=size, do_center_crop=False), two_towers.tokenizer()
        stream = NamedStream(sessions)
    else:
        base = ViTForImageClassification(ViTConfig(**SIZE, hidden_dropout_prob=dropout, num_labels=0))
        processor, tokenizer, stream = ViTImageProcessor(size=size), None, Stream(sessions)
    return ContinualTrainer(base, processor, method(name, dropout), stream, run, probes, quiet=True, tokenizer=tokenizer)


def outcome(folder: Path) -> str:
    """A digest of every adapter and of every result but times and memory."""
    total = hashlib.sha256()
    for path in sorted((folder / "adapters").glob("*/adapter_model.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            total.update(f"{path.parent.name}/{name}".encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    results = json.loads((folder / "results.json").read_text())
    del results["times"], results["memory"]
    total.update(json.dumps(results, sort_keys=True).encode())
    return total.hexdigest()
