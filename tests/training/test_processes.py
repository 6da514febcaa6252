"""Two gloo processes over session boundaries: the same stream, the same numbers, nothing unsynchronised."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loop_case import build
from safetensors.torch import load_file

CASE = Path(__file__).with_name("loop_case.py")
TESTS = CASE.parents[1]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def on_two_processes(folder: Path, *flags: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{CASE.parent}", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command = [*launcher, str(CASE), str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.distributed
def test_two_processes_train_as_one_over_session_boundaries(tmp_path):
    on_two_processes(tmp_path / "two", "dropout=0.0", "mode=official")
    build(tmp_path / "one", dropout=0.0, mode="official").fit()
    for session in range(3):
        one, two = (load_file(tmp_path / n / "adapters" / f"session-{session}" / "adapter_model.safetensors") for n in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=1e-2)
    lines = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "one" / "log.jsonl").read_text().splitlines()), "more than one process wrote the log"
    assert (tmp_path / "two" / "checkpoints").exists()
    names = {path.name for path in next((tmp_path / "two" / "checkpoints").glob("step-*")).iterdir()}
    assert {"rank-000.safetensors", "rank-001.safetensors"} <= names
