"""A few records to one tracker, in its folder: `tracker_case.py FOLDER TRACKER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from accelerate import Accelerator

from hf_cl.training.records import Records, start_trackers

folder, tracker = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)
accelerator = Accelerator(cpu=True, log_with=[tracker], project_dir=folder)
settings = {"learning_rate": 0.25, "dataset": "animals", "head": {"type": "cosine"}, "shots": None, "compile": False}
start_trackers(accelerator, [tracker], settings, folder)
records = Records(folder, accelerator, quiet=True)
for step in range(1, 4):
    records.write("train", step, session=0, phase="train", epoch=0, loss_cross_entropy=1.0 / step)
records.write("session", 3, session=0, final_accuracy=0.625)
accelerator.end_training()
