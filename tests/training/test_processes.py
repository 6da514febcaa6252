"""Two gloo processes over session boundaries: the same stream, the same numbers, nothing unsynchronised."""

from __future__ import annotations

import os
import signal
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


def environment() -> dict[str, str]:
    paths = [str(TESTS), str(CASE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def on_two_processes(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command = [*launcher, str(CASE), str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


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
    assert {"rank-000-of-002.safetensors", "rank-001-of-002.safetensors"} <= names


@pytest.mark.distributed
@pytest.mark.parametrize(("flag", "words"), [("die_at=10", ""), ("stop_at=13", "Stopped by SIGTERM")])
def test_two_processes_that_stop_go_on_with_the_same_bits(on_two, tmp_path, flag, words):
    stopped = on_two_processes(tmp_path, *FLAGS, "checkpoint_steps=3", "logging_steps=1", flag)
    assert stopped.returncode != 0 and words in stopped.stderr, stopped.stderr[-3000:]
    resumed = on_two_processes(tmp_path, *FLAGS, "checkpoint_steps=3", "resume=auto")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert digest(tmp_path) == digest(on_two)


@pytest.mark.distributed
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_alone(on_two, tmp_path, capfd):
    """Without a launcher that would end the others: as on another machine. Then on one process, as two processes train what one does."""
    flags = (*FLAGS, "checkpoint_steps=3", "die_at=10", "die_rank=1")
    group = {**environment(), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "LOCAL_WORLD_SIZE": "2"}
    ranks = [{**group, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    with (tmp_path / "said").open("w") as output:
        both = [subprocess.Popen([sys.executable, str(CASE), str(tmp_path), *flags], env=rank, stderr=output) for rank in ranks]
    assert both[1].wait(timeout=300) == -signal.SIGKILL
    assert both[0].wait(timeout=60) == 1 and "onnection" in (tmp_path / "said").read_text()  # closed, or reset, by peer
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000000006", "step-000000009"}
    results = build(tmp_path, dropout=0.0, mode="official", resume="auto").fit()
    assert "Number of processes: 2 then, 1 now." in capfd.readouterr().err
    for session in range(3):
        one, two = (load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors") for folder in (tmp_path, on_two))
        torch.testing.assert_close(one, two, atol=2e-3, rtol=1e-2)
    assert results.environment["num_processes"] == 1
