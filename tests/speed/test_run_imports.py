"""What `import hf_cl` and a run before its first step do not import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "left_out"),
    [
        ("import hf_cl", {"pydantic", "datasets", "accelerate", "sklearn", "matplotlib", "kornia", "rich", "typer"}),
        ("import hf_cl, hf_cl.methods, hf_cl.run.runs", {"matplotlib", "kornia", "datasets", "pandas", "pyarrow"}),
        ("from hf_cl.scenarios import open_images; open_images('digits')", {"datasets", "pandas", "pyarrow", "sklearn"}),
    ],
)
def test_libraries_come_when_they_are_needed(statement, left_out):
    """Beyond what torch, transformers and peft bring along themselves."""
    code = (
        "import json, sys, torch, transformers, peft; from peft import get_peft_model; before = set(sys.modules)\n"
        f"{statement}; print(json.dumps([*before]), json.dumps([*sys.modules]), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = ({name.partition(".")[0] for name in json.loads(line)} for line in done.stdout.splitlines())
    assert not left_out & (after - before)
