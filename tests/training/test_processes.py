"""Two gloo processes over session boundaries: the same stream, the same numbers, nothing unsynchronised."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loop_case import build, digest
from safetensors.torch import load_file

CASE = Path(__file__).with_name("loop_case.py")
TESTS = CASE.parents[1]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def on_two_processes(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, CASE.parent, TESTS.parent))),
        "ACCELERATE_USE_CPU": "true",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command = [*launcher, str(CASE), str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


FLAGS = ("dropout=0.0", "mode=official")


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = on_two_processes(folder, *FLAGS)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.distributed
def test_two_processes_train_as_one_over_session_boundaries(on_two, tmp_path):
    build(tmp_path / "one", dropout=0.0, mode="official").fit()
    for session in range(3):
        files = [folder / "adapters" / f"session-{session}" / "adapter_model.safetensors" for folder in (tmp_path / "one", on_two)]
        one, two = map(load_file, files)
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=1e-2)
    lines = (on_two / "log.jsonl").read_text().splitlines()
    assert len(lines) == len((tmp_path / "one" / "log.jsonl").read_text().splitlines()), "more than one process wrote the log"
    assert (on_two / "checkpoints").exists()
    names = {path.name for path in next((on_two / "checkpoints").glob("step-*")).iterdir()}
    assert {"rank-000.safetensors", "rank-001.safetensors"} <= names


@pytest.mark.distributed
@pytest.mark.parametrize(("flag", "words"), [("die_at=10", ""), ("stop_at=13", "Stopped by SIGTERM")])
def test_two_processes_that_stop_go_on_with_the_same_bits(on_two, tmp_path, flag, words):
    stopped = on_two_processes(tmp_path, *FLAGS, "checkpoint_steps=3", "logging_steps=1", flag)
    assert stopped.returncode != 0 and words in stopped.stderr, stopped.stderr[-3000:]
    resumed = on_two_processes(tmp_path, *FLAGS, "checkpoint_steps=3", "resume=auto")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert digest(tmp_path) == digest(on_two)
