"""Two gloo processes over session boundaries: the same stream, the same numbers, nothing unsynchronised."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loop_case import build, digest
from processes import run, torchrun
from safetensors.torch import load_file

CASE = Path(__file__).with_name("loop_case.py")
FLAGS = ("dropout=0.0", "mode=official")


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = run(CASE, folder, *FLAGS, processes=2)
    assert done.status == 0, done.output[-3000:]
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
def test_two_processes_that_die_go_on_with_the_same_bits(on_two, tmp_path):
    died = run(CASE, tmp_path, *FLAGS, "checkpoint_steps=3", "die_at=10", processes=2)
    assert died.statuses == [9, 9], died.output[-3000:]
    resumed = run(CASE, tmp_path, *FLAGS, "checkpoint_steps=3", "resume=auto", processes=2)
    assert resumed.status == 0, resumed.output[-3000:]
    assert digest(tmp_path) == digest(on_two)


@pytest.mark.distributed
def test_a_launcher_that_is_stopped_stops_its_processes_and_the_run_goes_on(on_two, tmp_path):
    """Under the launcher that users have, to which a cluster sends its signal; that it began the processes is nothing to the files."""
    stopped = torchrun(CASE, tmp_path, *FLAGS, "checkpoint_steps=3", "logging_steps=1", "stop_at=13")
    assert stopped.status != 0 and "Stopped by SIGTERM" in stopped.output, stopped.output[-3000:]
    resumed = run(CASE, tmp_path, *FLAGS, "checkpoint_steps=3", "resume=auto", processes=2)
    assert resumed.status == 0, resumed.output[-3000:]
    assert digest(tmp_path) == digest(on_two)


@pytest.mark.distributed
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_alone(on_two, tmp_path, capfd):
    """Without a launcher that would end the others: as on another machine. Then on one process, as two processes train what one does."""
    killed = run(CASE, tmp_path, *FLAGS, "checkpoint_steps=3", "die_at=10", "die_rank=1", processes=2)
    assert killed.statuses == [1, -signal.SIGKILL] and "onnection" in killed.output  # closed, or reset, by peer
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000000006", "step-000000009"}
    results = build(tmp_path, dropout=0.0, mode="official", resume="auto").fit()
    assert "Number of processes: 2 then, 1 now." in capfd.readouterr().err
    for session in range(3):
        one, two = (load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors") for folder in (tmp_path, on_two))
        torch.testing.assert_close(one, two, atol=2e-3, rtol=1e-2)
    assert results.environment["num_processes"] == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_fifty_groups_end_well_beside_other_programs(tmp_path):
    """Python's own end is where a thread of gloo's could still abort a process that had done everything (docs/reliability.md)."""
    script = CASE.parents[1] / "losses" / "contrast_two_processes.py"
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        ends = [run(script, tmp_path / f"{number}.json", processes=2, ends=True, ACCELERATE_USE_CPU="true") for number in range(50)]
    finally:
        for other in others:
            other.kill()
            other.wait()
    failed = [end for end in ends if end.statuses != [0, 0]]
    assert not failed, f"{len(failed)} of 50, such as {failed[0]}"
