"""A small run with a memory, in one process or in two: `memory_case.py FOLDER`, started by torch's launcher."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loop_case import backbone, processor
from stream import Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Method, Part, Probe
from hf_cl.methods import compose
from hf_cl.methods.with_memory import with_memory

torch.set_num_threads(1)
FIRST = next(iter(Stream(1)))


class StopAt(Probe):
    name = "stop"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step:
            raise RuntimeError("stopped")


def build(
    folder: Path,
    *,
    memory: dict[str, Any] | None = None,
    method: Method | None = None,
    der: bool = False,
    epochs: int = 1,
    stop_at: int = 0,
    part: Part | None = None,
    sessions: int = 3,
    stream: Any = None,
    **settings: Any,
) -> ContinualTrainer:
    """Sessions of 18 images of two classes, in steps of 8."""
    if method is None:
        losses = {"logit_replay": {"weight": 0.1}} if der else {}
        main = {"type": "experience_replay", "replay_weight": 0.5} if der else None
        method = compose(adapter={"type": "lora", "r": 4}, main=main, losses=losses, epochs=epochs, learning_rate=5e-3)
        method = method if memory is None else with_memory(method, memory)
    if part is not None:
        method = replace(method, parts=[*method.parts, part])
    values = {"batch_size": 8, "eval_batch_size": 24, "augmentation": "crop_flip", "cpu": True, "num_workers": 1, **settings}
    values |= {"resume": "auto", "checkpoint_steps": 1} if der else {}
    probes = [StopAt(stop_at)] if stop_at else []
    run = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(dropout=0.0), processor(), method, stream or Stream(sessions), run, probes, quiet=True)


def run(folder: Path) -> dict[str, Any]:
    """DER++ with eight images beside every eight, drawn from six a class by herding."""
    memory = {"type": "exemplars", "per_class": 6, "replay": 6}
    trainer = build(folder, memory=memory, der=True)
    trainer.fit()
    kept = [[exemplar.session, exemplar.index] for exemplar in trainer.memory.kept]  # pyright: ignore
    found = {"kept": kept, "norms": {name: float(p.detach().double().norm()) for name, p in trainer.named_parameters}}
    if trainer.accelerator.is_main_process:
        (folder / "record.json").write_text(json.dumps(found))
    trainer.accelerator.wait_for_everyone()
    return found


if __name__ == "__main__":
    run(Path(sys.argv[1]))
