"""Two machines, played by two network namespaces with a cable between them, launched as recipes/accelerate/two_machines.yaml has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.97.0.1", "10.97.0.2")
SMALL = ["--config", "demo", "--epochs", "1", "--vor_epochs", "0", "--num_base_classes", "5", "--classes_per_session", "5"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def machines():
    """Names of two namespaces; in machine r the cable is called `cable<r>`."""
    if shutil.which("ip") is None:
        pytest.skip("there is no command ip to make network namespaces with")
    names = [f"hfcl{os.getpid()}m{rank}" for rank in range(2)]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", names[1])
        for rank, name in enumerate(names):
            ip("-n", name, "addr", "add", f"{ADDRESSES[rank]}/24", "dev", f"cable{rank}")
            ip("-n", name, "link", "set", f"cable{rank}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def launch(machines, command, *, interface: bool, timeout: float = 400) -> list[tuple[int, str]]:
    """Exit status and output of `command(rank)` on both machines."""
    started = []
    for rank, name in enumerate(machines):
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        if interface:
            variables["GLOO_SOCKET_IFNAME"] = f"cable{rank}"
        line = ["ip", "netns", "exec", name, sys.executable, *command(rank)]
        started.append(subprocess.Popen(line, env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [process.communicate(timeout=timeout)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def recipe(folders: list[Path]):
    def command(rank: int) -> list[str]:
        where = ["--config_file", "recipes/accelerate/two_machines.yaml", "--main_process_ip", ADDRESSES[0], "--machine_rank", str(rank)]
        launcher = ["-m", "accelerate.commands.launch", *where]
        return [*launcher, "recipes/ovor.py", *SMALL, "--cpu", "true", "--output_dir", str(folders[rank])]

    return command


@pytest.mark.slow
@pytest.mark.distributed
def test_two_machines_train_one_run_in_a_folder_they_share(machines, tmp_path):
    for status, output in launch(machines, recipe([tmp_path / "run"] * 2), interface=True):
        assert status == 0, output[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["environment"]["num_processes"] == 2 and len(results["sessions"]) == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_machines_that_share_no_folder_are_told_so_before_training(machines, tmp_path):
    ends = launch(machines, recipe([tmp_path / "a", tmp_path / "b"]), interface=True)
    assert all(status != 0 for status, _ in ends)
    assert all("is not the same folder everywhere: 1 of 2 processes" in output for _, output in ends), ends
    assert not (tmp_path / "a" / "adapters").exists()


MEET = """
import sys
import hf_cl.training.accelerator as accelerator
from hf_cl.settings import TrainingSettings
accelerator.MEET_SECONDS = 20
try:
    accelerator.RunAccelerator(TrainingSettings(cpu=True))
except RuntimeError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_without_the_name_of_the_interface_both_sides_say_what_to_name(machines, tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(MEET)
    static = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", ADDRESSES[0], "--master_port", "29500"]
    ends = launch(machines, lambda rank: ["-m", "torch.distributed.run", *static, "--node_rank", str(rank), str(script)], interface=False)
    assert all(status != 0 and "export GLOO_SOCKET_IFNAME=eth0" in output for status, output in ends), ends
