"""Two gloo processes train a text head as one does: the gradient is that of the global batch, each rank encodes the same texts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clip_runs import write_photos
from safetensors.torch import load_file
from text_heads_case import METHODS, run

CASE = Path(__file__).with_name("text_heads_case.py")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.distributed
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_a_text_head_as_one(method, tmp_path):
    photos = write_photos(tmp_path / "photos")
    paths = os.pathsep.join([str(CASE.parents[1]), str(CASE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command = [*launcher, str(CASE), method, str(tmp_path / "two"), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run(method, tmp_path / "one", photos)
    folders = [tmp_path / processes for processes in ("one", "two")]
    for session in range(3):
        one, two = (load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors") for folder in folders)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert one["accuracy_matrix"] == two["accuracy_matrix"]
