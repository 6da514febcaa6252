"""Started by `loop.py` with a folder, alone or once per process: a run of one session; the main process prints the wall time of a step."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from transformers import ViTImageProcessor

from benchmarks import ours
from benchmarks.streams import Stream
from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Method, Part
from hf_cl.methods import ovor

STEPS, BATCH = 8, 16


class _Clock(Part):
    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self, trainer: Any) -> None:
        self.times.append(time.perf_counter())


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    clock, method = _Clock(), ovor(epochs=1, vor_epochs=0)
    settings = TrainingSettings(sys.argv[1], batch_size=BATCH, augmentation="none", cpu=True, num_workers=1)
    method = Method(**{**vars(method), "parts": [clock]})
    run = ContinualTrainer(ours.vit(), ViTImageProcessor(), method, Stream(1, 2, STEPS * BATCH, 2), settings, quiet=True)
    run.fit()
    if run.accelerator.is_main_process:
        seconds = sorted(b - a for a, b in zip(clock.times, clock.times[1:], strict=False))
        sys.stdout.write(json.dumps({"seconds": seconds[len(seconds) // 2]}) + "\n")


if __name__ == "__main__":
    main()
