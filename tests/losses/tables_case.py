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
from hf_cl.losses import EnsembleDistillation, Teacher
from hf_cl.methods import compose
from hf_cl.probes import build_probes
from hf_cl.training.accelerator import leave_group

STOPPED_AT = 5
"""A step inside an epoch of the second session."""
PROBES = {
    "calibration": {},
    "epochs": {},
    "memorization": {},
    "sharpness": {"trace_samples": 2, "power_iterations": 3},
    "softmax_collapse": {"every": 1},
    "suspected_labels": {},
}


class Mislabelled(Images):
    """Two images look like the other class."""

    def __getitem__(self, position):
        labels = self.labels.copy()
        labels[[3, 6]] = labels[[4, 7]]
        return {**Images(labels, self.indices[0])[position], "label": int(self.labels[position])}


class Odd(Stream):
    """17 images a session, of which batches of 16 leave one, and 5 that are held out."""

    def __iter__(self):
        for session in super().__iter__():
            train, held = (session.first_new_class + np.arange(count) % 2 for count in (17, 5))
            first = 1000 * session.id
            yield replace(session, train=Mislabelled(train, first), validation=Images(held, first + 700))


def teacher(number: int) -> Teacher:
    """Says what it says by the brightness of the picture."""

    def open_after(session: int) -> Any:
        ways = torch.arange(2 + 2 * session) * (number + 1)  # [C]
        return lambda pixels: (pixels.flatten(1).double().mean(1, keepdim=True) * ways).log_softmax(-1)  # [B, C]

    return Teacher(f"teacher {number}", open_after)


class Tables(Part):
    """Writes the tables down as each session ends, before the losses give them up."""

    def begin_session(self, trainer: Any, session: Any) -> None:
        trainer.model.double()

    def before_statistics(self, trainer: Any, session: Any) -> None:
        remembered, distilled = trainer.losses["early_learning"], trainer.losses["self_distillation"]
        taught = trainer.losses["ensemble_distillation"]._table.values[:-1]
        tables = {
            "taught": taught,
            "averages": remembered.table.values[:-1],
            "read": distilled._read.values[:-1],
            "written": distilled._written.values[:-1],
        }
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
    taught = EnsembleDistillation([teacher(0), teacher(1)])
    values = {"batch_size": 16, "eval_batch_size": 18, "augmentation": "crop_flip", "cpu": True, "logging_steps": 1, **settings}
    trainer = ContinualTrainer(
        backbone(dropout=0.0),
        processor(),
        replace(
            method,
            phases=lambda session: [replace(phase, losses=[*phase.losses, taught]) for phase in method.phases(session)],
            parts=[*method.parts, Tables()],
        ),
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
