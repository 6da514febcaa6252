"""Runs a script on two processes that talk over gloo, and hands back the JSON that its main process wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def on_two_processes(script: Path, folder: Path) -> Any:
    """`script` is called with the path of the JSON file it has to write."""
    result = folder / "result.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "LOCAL_", "WORLD_", "MASTER_"))}
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), str(result)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(result.read_text())
