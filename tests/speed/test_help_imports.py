"""Help and mistakes are there without waiting for torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHOW = """
import json, sys
lines, codes = json.loads(sys.argv[1]), []
for line in lines:
    sys.argv = ["hf-cl", *line]
    from hf_cl_command import main
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
sys.stderr.write("\\n" + json.dumps({"codes": codes, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "sklearn", "matplotlib", "PIL", "kornia", "scipy"}
COMMANDS = (
    "data",
    "train",
    "ensemble",
    "demo",
    "predict",
    "evaluate",
    "app",
    "report",
    "compare",
    "list",
    "env",
    "push",
    "export",
    "classes",
)
OWN = """
from dataclasses import dataclass
import torch
from hf_cl.methods import METHODS, LoraSettings
@dataclass
class Mine(LoraSettings):
    mine: int = 3
METHODS["mine"] = Mine
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def light(*lines: list[str]) -> tuple[list[int], str]:
    """Exit statuses and output of commands, one after the other in one process, that must import nothing heavy."""
    done = run(SHOW, json.dumps(lines))
    said, _, last = done.stderr.rpartition("\n")
    seen = json.loads(last)
    assert not HEAVY & set(seen["modules"]), lines
    return seen["codes"], done.stdout + said


def test_help_imports_no_library_that_takes_seconds():
    codes, text = light(["--help"])
    assert codes == [0] and all(f" {command} " in text for command in COMMANDS)


def test_so_does_the_help_of_each_command():
    assert light(*([command, "-h"] for command in COMMANDS))[0] == [0] * len(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "ovor", "--help"], 0, "--vor_epochs"),
        (["train", "ovr"], 2, "Did you mean 'ovor'?"),
        (["train", "ovor", "--epochz", "3", "--seed", "x"], 2, "Did you mean 'epochs'?"),
        (["train", "ovor", "--config", "dmo"], 2, "Did you mean 'demo'?"),
        (["train", "ovor", "--dataset", "./no_such_folder"], 2, "is no folder or file here"),
        (["train", "ovor", "--protocol", "class_incrementl"], 2, "Did you mean 'class_incremental'?"),
        (["predict", "no_such_run", "no_such_image.png"], 2, "There is no file 'no_such_image.png'."),
        (["--version"], 0, "hf-cl "),
    ],
)
def test_a_mistake_is_told_without_torch(arguments, status, said):
    codes, text = light(arguments)
    assert codes == [status] and said in text


def test_a_method_of_ones_own_is_told_as_fast(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    codes, text = light(["train", "mine", "--import", str(tmp_path / "mine.py"), "--min", "4"])
    assert codes == [2] and "Did you mean 'mine'?" in text
