"""A run of an adapter that grows by session, killed after a step; and its reload: `growth_case.py train FOLDER STEP`, or `load FOLDER`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from growing_adapter import GrowingConfig
from loop_case import backbone, digest, processor
from peft import PeftModel
from stream import Stream
from tiny import images

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import LossTerm, Phase, Probe, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods import lora


class Stay(LossTerm):
    """The present features stay near the last session's, whose adapter had one vector less."""

    name, needs, weight = "stay", frozenset({"previous"}), 0.1

    def __call__(self, ctx):
        old = ctx.frozen("previous")
        assert old.logits.shape[1] == len(ctx.session.class_names) - len(ctx.session.new_class_names)
        return (ctx.features - old.features).square().mean()


class DieAt(Probe):
    name = "die"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if self.step and trainer.position.step == self.step:
            os._exit(9)


def build(folder: Path, die_at: int = 0) -> ContinualTrainer:
    """Three sessions of 18 images: 6 steps in each, 12 before session 2."""
    phases = lambda session: [Phase("train", 2, [MaskedCrossEntropy(), *([Stay()] if session.id else [])], everything)]  # noqa: E731
    method = replace(lora(epochs=2, learning_rate=1e-2), name="growing", adapter=GrowingConfig(head={"type": "linear"}), phases=phases)
    settings = TrainingSettings(
        output_dir=str(folder), batch_size=8, eval_batch_size=8, cpu=True, num_workers=1, resume="auto", checkpoint_steps=1
    )
    return ContinualTrainer(backbone(), processor(), method, Stream(3), settings, [DieAt(die_at)], quiet=True)


def logits_of(model: PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=images()).logits


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "train":
        build(folder, int(sys.argv[3])).fit()
        print("DIGEST", digest(folder))
    else:
        model = PeftModel.from_pretrained(backbone(), str(folder / "adapters" / "session-2"))
        print("LOGITS", logits_of(model).double().sum().item().hex())
