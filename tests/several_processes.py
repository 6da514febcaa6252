"""Scripts on several processes of this machine that talk over gloo, started by torchrun as a user starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_OF_A_LAUNCH = ("RANK", "LOCAL_", "WORLD_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_")


def environment(**variables: str) -> dict[str, str]:
    """Of a child process: it imports what this one does, takes one thread, and no launch that this process may be part of is in it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_LAUNCH)}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **variables}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(script: Path, *arguments: object, processes: int = 2) -> subprocess.Popen[str]:
    """The launcher, or the one process that needs none; `ended` waits for it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, str(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(started: subprocess.Popen[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Wait for it. After `timeout` seconds it is told to end, so that a launcher ends its processes too, and the test has failed."""
    late = False
    try:
        output, errors = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        late = True
        started.terminate()
        output, errors = started.communicate(timeout=60)
    if late:
        pytest.fail(f"not done after {timeout:.0f} s: {started.args}\n{output[-2000:]}\n{errors[-2000:]}")
    return subprocess.CompletedProcess(started.args, started.returncode, output, errors)


def on_processes(script: Path, *arguments: object, processes: int = 2, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is."""
    return ended(start(script, *arguments, processes=processes), timeout)


def result_of_two(script: Path, folder: Path) -> Any:
    """The JSON that the main process of two wrote; `script` is called with the path of that file."""
    result = folder / "result.json"
    done = on_processes(script, result)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text())
