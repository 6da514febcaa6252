"""Runs of fixed targets and token heads in float64: `token_heads_case.py FOLDER METHOD`, by two processes or one.

Sessions of nine images in batches of four, so that one of two processes has no share of the last step; and from session 1 on mean features
of earlier classes among them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_runs import FRAME, SCAN, VECTORS
from loop_case import backbone, processor
from stream import Images, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part
from hf_cl.methods import etf, mamba_fscil, maxsim
from hf_cl.training.accelerator import leave_group

AGAIN = {"type": "class_means", "copies": 2, "base_copies": 1}
METHODS = {
    "etf": partial(etf, head={**FRAME, "assignment": "greedy"}, feature_mixup=0.5, memory=AGAIN),
    "maxsim": partial(maxsim, head=VECTORS),
    "mamba_fscil": partial(mamba_fscil, head=SCAN, suppress_novel=1.0, separate_new=0.5, memory=AGAIN),
}


class Odd(Stream):
    def __iter__(self):
        for session in super().__iter__():
            yield replace(session, train=Images(session.first_new_class + np.arange(9) % 2, first_index=1000 * session.id))


class InFloat64(Part):
    def begin_session(self, trainer: Any, session: Any) -> None:
        trainer.model.double()


def run(folder: Path, name: str) -> None:
    method = METHODS[name](epochs=2, session_epochs=2, learning_rate=1e-2)
    method = replace(method, parts=[InFloat64(), *method.parts])
    values = {"batch_size": 4, "eval_batch_size": 5, "augmentation": "none", "cpu": True, "num_workers": 1, "logging_steps": 1}
    settings = TrainingSettings(output_dir=str(folder / name), **values)
    ContinualTrainer(backbone(dropout=0.0), processor(), method, Odd(3), settings, quiet=True).fit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
    leave_group()
