"""Small runs of the loop for each adapter type, and a record of what happens inside and outside of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import two_towers
from stream import Stream
from tiny import SIZE
from torch import nn
from transformers import CLIPImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import AsyncLoraConfig, GladConfig, SaraConfig
from hf_cl.contracts import Method
from hf_cl.methods import coact, cpe_clip, glad, lora, ovor, sara
from hf_cl.training.step import Stepper

NO_POOLER = {"type": "linear", "bias": False, "pooler": False}

METHODS: dict[str, Callable[[], Method]] = {
    "ONE_PROMPT": lambda: ovor(epochs=1, vor_epochs=0, layer_tokens={0: 2, 1: 2}),
    "CPE_CLIP": lambda: cpe_clip(base_epochs=1, session_epochs=1, session_batch_size=None),
    "ASYNC_LORA": lambda: coact(
        adapter=AsyncLoraConfig(r=4, unfreeze_from=4, head=dict(NO_POOLER)), epochs=1, incremental_train="classifier+lora"
    ),
    "GLAD": lambda: glad(adapter=GladConfig(head={"type": "linear"}), iterations=1),
    "SARA": lambda: sara(adapter=SaraConfig(density=0.1), epochs=1),
    "LoRA": lambda: lora(epochs=1, r=4),
}
"""The five adapter types in the methods they were made for, and the baseline."""


def build(kind: str, folder: Path, *, sessions: int = 2, train: int = 12, test: int = 4, method: Method | None = None, **settings):
    """A run of `sessions` sessions of two classes on a tiny base: 24 images to train on, in 3 steps, and 8 to test on in each."""
    values = {"batch_size": 8, "eval_batch_size": 64, "augmentation": "none", "cpu": True, "num_workers": 1, **settings}
    stream: Any = Stream(sessions, train=train, test=test)
    torch.manual_seed(0)
    if kind == "CPE_CLIP":
        base: nn.Module = two_towers.base("clip")
        stream.names = stream.class_names = tuple(f"w{10 + i}" for i in range(2 * sessions))
        processor: Any = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    else:
        base = ViTForImageClassification(ViTConfig(**SIZE, num_labels=0))
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    run = TrainingSettings(output_dir=str(folder), **values)
    tokenizer = two_towers.tokenizer() if kind == "CPE_CLIP" else None
    return ContinualTrainer(base, processor, method or METHODS[kind](), stream, run, quiet=True, tokenizer=tokenizer)


def image_blocks(trainer: ContinualTrainer) -> nn.ModuleList:
    base: Any = trainer.backbone
    return base.vision_model.encoder.layers if "vision_model" in dict(base.named_children()) else base.vit.layers


@dataclass
class Step:
    """What one optimizer step did."""

    blocks: list[tuple[int, int, bool]] = field(default_factory=list)
    """Of every vision block that ran: its number, images in the pass, whether the pass keeps a graph."""
    texts: list[int] = field(default_factory=list)
    """Texts in each pass through the text tower."""
    left_gradients: list[str] = field(default_factory=list)
    """Parameters that have a gradient after the step: frozen ones, since the optimizer empties the others."""

    def passes(self, *, graph: bool) -> list[int]:
        """Images of each pass through the last block."""
        last = max(number for number, _, _ in self.blocks)
        return [images for number, images, kept in self.blocks if number == last and kept == graph]


@dataclass
class Record:
    """What a run did: step by step, and in each session outside of its steps."""

    steps: list[Step] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    """Images through the first vision block outside of steps, by session."""
    texts: list[list[int]] = field(default_factory=list)
    """Texts in each pass through the text tower outside of steps, by session."""


@lru_cache
def record_of(kind: str) -> Record:
    """Three sessions of an adapter type; run once for all tests of a process."""
    with TemporaryDirectory() as folder:
        return record(build(kind, Path(folder), sessions=3))


def record(trainer: ContinualTrainer) -> Record:
    """Run it and look on."""
    found, now = Record(images=[0], texts=[[]]), list[Step]()
    base: Any = trainer.backbone

    def block(number: int) -> Callable[..., None]:
        def ran(module: nn.Module, args: Any, output: Any) -> None:
            if now:
                now[0].blocks.append((number, len(args[0]), torch.is_grad_enabled()))
            elif number == 0:
                assert not torch.is_grad_enabled() and not module.training
                found.images[-1] += len(args[0])

        return ran

    def texts(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        (now[0].texts if now else found.texts[-1]).append(len(kwargs["input_ids"]))

    original, save = Stepper.step, trainer.save_adapter

    def step(self: Stepper, *args: Any, **kwargs: Any) -> bool:
        now.append(Step())
        found.steps.append(now[0])
        out = original(self, *args, **kwargs)
        now[0].left_gradients = [name for name, p in trainer.model.named_parameters() if p.grad is not None]
        now.clear()
        return out

    def session_ends(folder: Path) -> None:
        save(folder)
        found.images.append(0)
        found.texts.append([])

    for number, module in enumerate(image_blocks(trainer)):
        module.register_forward_hook(block(number))
    if "text_model" in dict(base.named_children()):
        base.text_model.register_forward_hook(texts, with_kwargs=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "step", step)
        patch.setattr(trainer, "save_adapter", session_ends)
        trainer.fit()
    return Record(found.steps, found.images[:-1], found.texts[:-1])
