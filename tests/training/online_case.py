"""A small online stream and runs on it, in this process or in one that is killed: `online_case.py FOLDER STEP`, started by processes.py."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from loop_case import backbone, processor
from stream import Images, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Probe
from hf_cl.methods import compose
from hf_cl.methods.with_memory import with_memory, with_updates
from hf_cl.probes import AnytimeAccuracy, Prequential


class Online(Stream):
    """Two sessions of 20 images; each class comes late in its session, and class 0 comes again in session 1."""

    def __init__(self, ordered=True):
        super().__init__(2)
        self.ordered = ordered

    def __iter__(self):
        arrivals = [[0] * 12 + [1] * 8, [0] * 3 + [2] * 9 + [3] * 8]
        for session, labels in zip(super().__iter__(), arrivals, strict=True):
            come = np.maximum(np.maximum.accumulate(labels) + 1, 2 * session.id)
            train = Images(labels, first_index=1000 * session.id)
            yield replace(session, train=train, exposed=come.tolist() if self.ordered else None)


def build(folder: Path, method=None, probes=(), stream=None, parts=(), **settings):
    method = method or compose(adapter={"type": "lora", "r": 4}, epochs=1)
    values = {"batch_size": 4, "eval_batch_size": 8, "augmentation": "crop_flip", "cpu": True, "num_workers": 1, **settings}
    run = TrainingSettings(output_dir=str(folder), **values)
    method = replace(method, parts=[*method.parts, *parts])
    return ContinualTrainer(backbone(0.0), processor(), method, stream or Online(), run, list(probes), quiet=True)


class KillAt(Probe):
    """kill -9, after a step of the run and before its checkpoint."""

    name = "kill"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def watched(folder: Path, *probes: Probe, updates: int = 3):
    """Three steps a batch of four and two replayed images, one optimizer for both sessions, a checkpoint after each step."""
    method = compose(adapter={"type": "lora", "r": 4}, epochs=1, learning_rate=5e-3)
    method = with_updates(with_memory(method, {"type": "exemplars", "per_class": 2, "replay": 2}), updates, "run")
    own = [AnytimeAccuracy(every_images=8), Prequential(), *probes]
    return build(folder, method, own, checkpoint_steps=1, resume="auto")


if __name__ == "__main__":
    torch.set_num_threads(1)
    watched(Path(sys.argv[1]), KillAt(int(sys.argv[2]))).fit()
