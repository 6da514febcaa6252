"""Small runs of all recipes that write down what one and two processes must agree on: `equality_case.py FOLDER DEVICE DTYPE`.

Started by torch's launcher it makes the runs on two processes; test_process_equality.py makes the same ones in its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import two_towers
from safetensors.torch import save_file
from stream import Images, Stream
from tiny import SIZE
from transformers import CLIPImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import AsyncLoraConfig, GladConfig, SaraConfig
from hf_cl.adapters.glad.config import TEXT_HEAD
from hf_cl.contracts import Method, Part
from hf_cl.losses import Projector, VirtualOutliers
from hf_cl.methods import MvpSettings, coact, cpe_clip, glad, ovor, sara

torch.set_num_threads(1)

STEPS = 20
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Uneven(Stream):
    """Sessions of 19 and 21 images: batches of 8 leave 3 and 5. Class names are words that the tiny tokenizer knows."""

    def __init__(self, sessions: int):
        super().__init__(sessions)
        self.names = self.class_names = ("w10", "w11", "w12", "w13")[: 2 * sessions]

    def __iter__(self):
        for session, count in zip(super().__iter__(), (19, 21), strict=False):
            labels = session.first_new_class + np.arange(count) % 2
            yield replace(session, train=Images(labels, first_index=1000 * session.id))


class Recorder(Part):
    """Gradients of the first step, parameters after 20, and the sample ids of every step, in this process's order."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.order = dtype, []
        self.gradients: dict[str, torch.Tensor] = {}
        self.parameters: dict[str, torch.Tensor] = {}

    def begin_session(self, trainer, session) -> None:
        trainer.model.to(self.dtype)
        for part in trainer.method.parts:
            if isinstance(part, Projector) and not len(part.layers):  # before it makes itself, in the default precision
                part._build(trainer.head.in_features)
                part.to(self.dtype)
        if session.id == 0:
            self._watch(trainer)

    def _watch(self, trainer) -> None:
        steps, transform = trainer.images.steps, trainer.method.rule.transform

        def recording_steps(*args, **kwargs):
            for micro_batches in steps(*args, **kwargs):
                self.order.append([micro.batch["index"].tolist() if micro.weight else [] for micro in micro_batches])
                yield micro_batches

        def recording_transform(named):
            if not self.gradients:
                self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
            transform(named)

        trainer.images.steps, trainer.method.rule.transform = recording_steps, recording_transform

    def after_step(self, trainer) -> None:
        if trainer.position.step == STEPS:
            self.parameters = {name: p.detach().clone() for name, p in trainer.named_parameters}


def _ovor() -> Method:
    outliers = VirtualOutliers(k=5, num_offsets=30, num_boundary=6, per_class=6)
    return ovor(epochs=3, vor_epochs=1, outliers=outliers, learning_rate=1e-2, layer_tokens={0: 2, 1: 3})


def _coact() -> Method:
    adapter = AsyncLoraConfig(r=4, lora_dropout=0.0, unfreeze_from=1, unfreeze_epoch=1, ema_decay=0.9, head={"type": "linear"})
    rates = {"learning_rate": 0.05, "encoder_lr_factor": 0.5, "incremental_lr_factor": 0.5, "projector": (16, 8)}
    return coact(adapter=adapter, epochs=4, incremental_epochs=3, incremental_train="classifier+lora", **rates)


def _sara() -> Method:
    rank = {"lambda_rank": 1e-3, "rank_min_dim": 16, "rank_min_nnz": 20}
    adapter = SaraConfig(density=0.2, include_bias_norm=True, block_rows=24, progressive_iter=5, **rank)
    return sara(adapter=adapter, epochs=4, learning_rate=2e-3)


def _glad() -> Method:
    adapter = GladConfig(r=4, lora_dropout=0.0, head=dict(TEXT_HEAD))
    return glad(adapter=adapter, iterations=12, session_iterations=12, learning_rate=1e-3)


def _mvp() -> Method:
    """Its losses look at the whole batch: gradients of all images, and the keys that all have chosen."""
    return MvpSettings(epochs=2, updates_per_batch=2, e_layers=[1], g_layers=[0], pool_size=4, e_tokens=2, learning_rate=1e-3).method()


METHODS: dict[str, Callable[[], Method]] = {
    "ovor": _ovor,
    "coact": _coact,
    "sara": _sara,
    "cpe_clip": lambda: cpe_clip(base_epochs=4, session_epochs=4, session_batch_size=8),
    "glad": _glad,
    "mvp": _mvp,
}


def build(name: str, folder: Path, dtype: str, device: str) -> tuple[ContinualTrainer, Recorder]:
    method, recorder = METHODS[name](), Recorder(DTYPES[dtype])
    method = replace(method, parts=[recorder, *method.parts])
    accumulation = 1 if name == "ovor" else 2  # it has a phase on features, which takes whole steps
    settings = TrainingSettings(
        output_dir=str(folder),
        batch_size=8,
        eval_batch_size=5,
        gradient_accumulation_steps=accumulation,
        mixed_precision="no",
        cpu=device == "cpu",
        logging_steps=1,
        num_workers=1,
    )
    torch.manual_seed(0)
    tokenizer: Any = None
    if name in ("cpe_clip", "glad"):
        backbone, tokenizer = two_towers.clip(text_layers=2, vision_layers=2), two_towers.tokenizer_of("clip")
        processor: Any = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    else:
        backbone = ViTForImageClassification(ViTConfig(**SIZE | {"num_hidden_layers": 2}, num_labels=0))
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    stream = Uneven(sessions=2 if dtype == "float64" else 1)
    return ContinualTrainer(backbone, processor, method, stream, settings, quiet=True, tokenizer=tokenizer), recorder


def run(folder: Path, device: str, name: str, dtype: str) -> Path:
    """One run; what it recorded lies beside the files that the loop writes."""
    folder = folder / f"{name}-{dtype}"
    trainer, recorder = build(name, folder, dtype, device)
    accelerator = trainer.accelerator
    trainer.fit()
    (folder / f"order-{accelerator.process_index}.json").write_text(json.dumps(recorder.order))
    if accelerator.is_main_process:
        save_file({name: g.cpu().contiguous() for name, g in recorder.gradients.items()}, folder / "gradients.safetensors")
        if recorder.parameters:
            save_file({name: p.cpu().contiguous() for name, p in recorder.parameters.items()}, folder / "parameters.safetensors")
    accelerator.wait_for_everyone()
    return folder


if __name__ == "__main__":
    for name in METHODS:
        run(Path(sys.argv[1]), sys.argv[2], name, sys.argv[3])
