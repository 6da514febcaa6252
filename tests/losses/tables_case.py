"""Runs whose losses keep a row per image, watched by probes, in float64: `tables_case.py RESULT.json`, by two processes or none.

The last step of an epoch has one image, so that one of two processes has no share of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop_case import backbone, digest, processor
from safetensors.torch import save_file
from stream import Images, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part, Probe
from hf_cl.errors import TrainingInterruptedError
from hf_cl.methods import compose
from hf_cl.probes import build_probes
from hf_cl.training.accelerator import leave_group

STOPPED_AT = 5
"""A step inside an epoch of the second session."""
PROBES = {
    "calibration": {},
    "sharpness": {"trace_samples": 2, "power_iterations": 3},
    "softmax_collapse": {"every": 1},
    "suspected_labels": {},
}


class Odd(Stream):
    """17 images a session: batches of 16 leave one."""

    def __iter__(self):
        for session in super().__iter__():
            yield replace(session, train=Images(session.first_new_class + np.arange(17) % 2, first_index=1000 * session.id))


class Tables(Part):
    """Writes the tables down as each session ends, before the losses give them up."""

    def begin_session(self, trainer: Any, session: Any) -> None:
        trainer.model.double()

    def before_statistics(self, trainer: Any, session: Any) -> None:
        remembered, distilled = trainer.losses["early_learning"], trainer.losses["self_distillation"]
        tables = {"averages": remembered.table.values[:-1], "read": distilled._read.values[:-1], "written": distilled._written.values[:-1]}
        name = f"tables-{session.id}-{trainer.accelerator.process_index}.safetensors"
        save_file({key: table.clone() for key, table in tables.items()}, trainer.folder / name)


class Stop(Probe):
    """As a cluster's SIGTERM, on every process after the same step."""

    name = "stop"

    def after_step(self, trainer: Any) -> None:
        if trainer.position.step == STOPPED_AT:
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path, stop: bool = False, **settings: Any) -> dict[str, Any]:
    """Train, and return what the probes report."""
    method = compose(
        adapter={"type": "lora", "r": 2},
        main={"type": "self_distillation"},
        losses={"early_learning": {"weight": 1.0}},
        rule={"type": "perp_grad", "scope": "all"},
        epochs=2,
        learning_rate=1e-2,
    )
    values = {"batch_size": 16, "eval_batch_size": 18, "augmentation": "crop_flip", "cpu": True, "logging_steps": 1, **settings}
    trainer = ContinualTrainer(
        backbone(dropout=0.0),
        processor(),
        replace(method, parts=[*method.parts, Tables()]),
        Odd(2),
        TrainingSettings(output_dir=str(folder), **values),
        probes=[*build_probes(PROBES), *([Stop()] if stop else [])],
        quiet=True,
    )
    return trainer.fit().probes


def main(result: Path) -> None:
    torch.set_num_threads(1)
    folder = result.parent
    probes = run(folder / "whole")
    with suppress(TrainingInterruptedError):
        run(folder / "stopped", stop=True)
    stopped = not (folder / "stopped" / "adapters" / "session-1").exists()
    again = run(folder / "stopped", resume="auto")
    if os.environ["RANK"] == "0":
        found = {"probes": probes, "again": again, "stopped": stopped, "equal": digest(folder / "stopped") == digest(folder / "whole")}
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
