"""One small run of the loop, started by the tests in this process, in a killed one, or in two: `loop_case.py FOLDER [key=value ...]`."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from stream import Stream
from tiny import SIZE
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Probe
from hf_cl.losses import VirtualOutliers
from hf_cl.methods import ovor

torch.set_num_threads(1)


class DieAt(Probe):
    """Ends the process, as a power cut would, after an optimizer step; with `rank`, that process alone."""

    name = "die"

    def __init__(self, step: int, rank: int | None = None) -> None:
        self.step, self.rank = step, rank

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step and self.rank in (None, trainer.accelerator.process_index):
            os._exit(9) if self.rank is None else os.kill(os.getpid(), signal.SIGKILL)


class StopLauncherAt(Probe):
    """Sends SIGTERM to the launcher, as a cluster does, and waits until it has arrived here."""

    name = "stop"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step:
            if trainer.accelerator.is_main_process:
                os.kill(os.getppid(), signal.SIGTERM)
            while not trainer.times.signals.received:
                time.sleep(0.01)


def backbone(dropout: float = 0.1) -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SIZE, hidden_dropout_prob=dropout, num_labels=0))


def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 32, "width": 32})


def build(
    folder: Path,
    *,
    die_at: int = 0,
    die_rank: int | None = None,
    stop_at: int = 0,
    sessions: int = 3,
    head: str = "linear",
    dropout: float = 0.1,
    mode: str = "npos",
    **settings,
) -> ContinualTrainer:
    outliers = VirtualOutliers(mode=mode, k=5, num_offsets=30, num_boundary=6, per_class=6)
    method = ovor(epochs=2, vor_epochs=1, outliers=outliers, head={"type": head}, learning_rate=1e-2)
    probes = [*([DieAt(die_at, die_rank)] if die_at else []), *([StopLauncherAt(stop_at)] if stop_at else [])]
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "crop_flip", "cpu": True, "logging_steps": 2, **settings}
    trained = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(dropout), processor(), method, Stream(sessions), trained, probes=probes)


def digest(folder: Path) -> str:
    """Of every adapter file of a run and its numbers."""
    total = hashlib.sha256()
    for path in sorted((folder / "adapters").glob("*/adapter_model.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    folder, flags = Path(sys.argv[1]), dict(flag.split("=") for flag in sys.argv[2:])
    settings = {key: yaml.safe_load(value) for key, value in flags.items()}
    trainer = build(folder, **settings)
    trainer.fit()
    if trainer.accelerator.is_main_process:
        print("DIGEST", digest(folder), flush=True)


if __name__ == "__main__":
    main()
