"""One run of a study, wherever an engine has placed it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hf_cl.tuning.study import State, read_state, read_study, write_state

SIGNALLED = 128
"""Exit statuses above it name the signal that stopped a run; a checkpoint is there."""


def run_job(folder: str, name: str, variables: Mapping[str, str] | None = None) -> State:
    """Run a job of the study in `folder`, unless it is done, and note its state; its output goes into `output/NAME.txt`.

    A process of its own: what a run leaves in memory, or what kills it, is no other run's. `variables` are added to its environment.
    """
    study = Path(folder)
    job = next(job for job in read_study(study).jobs if job.name == name)
    if read_state(study, name) == "done":
        return "done"
    write_state(study, name, "running")
    (study / "output").mkdir(exist_ok=True)
    with (study / "output" / f"{name}.txt").open("a") as output:
        command = [sys.executable, "-m", "hf_cl.cli", "train", job.method, *job.flags]
        status = subprocess.run(command, stdout=output, stderr=output, env={**os.environ, **(variables or {})}, check=False).returncode
    state: State = "done" if status == 0 else "stopped" if status > SIGNALLED or status < 0 else "failed"
    write_state(study, name, state, status)
    return state
