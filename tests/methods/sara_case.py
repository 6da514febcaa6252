"""One small SaRA run, started by the tests in this process or in a killed one: `sara_case.py FOLDER [key=value ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from stream import Stream
from tiny import SIZE
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import SaraConfig
from hf_cl.contracts import Probe
from hf_cl.methods import sara
from hf_cl.probes import ActiveEntries

torch.set_num_threads(1)


class DieAt(Probe):
    """Ends the process, as a power cut would, after an optimizer step."""

    name = "die"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step:
            os._exit(9)


def build(folder: Path, *, die_at: int = 0, sessions: str = "protect", **settings) -> ContinualTrainer:
    """Three sessions of six steps, with a switch after the third step of each."""
    torch.manual_seed(0)
    backbone = ViTForImageClassification(ViTConfig(**SIZE, num_labels=0))
    adapter = SaraConfig(
        density=0.2,
        include_bias_norm=True,
        block_rows=24,
        lambda_rank=1e-3,
        rank_min_dim=16,
        rank_min_nnz=20,
        progressive_iter=3,
    )
    method = sara(adapter=adapter, epochs=2, learning_rate=2e-3, sessions=sessions)  # type: ignore[arg-type]
    probes = [ActiveEntries(), *([DieAt(die_at)] if die_at else [])]
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "crop_flip", "cpu": True, "logging_steps": 2, **settings}
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return ContinualTrainer(backbone, processor, method, Stream(3), TrainingSettings(output_dir=str(folder), **values), probes=probes)


if __name__ == "__main__":
    flags = dict(flag.split("=") for flag in sys.argv[2:])
    build(Path(sys.argv[1]), **{key: int(value) if value.isdigit() else value for key, value in flags.items()}).fit()
