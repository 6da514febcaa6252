"""Help and mistakes are there without waiting for torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHOW = """
import json, sys
sys.argv = ["hf-cl", *sys.argv[1:]]
from hf_cl_command import main
try:
    main()
except SystemExit as end:
    code = end.code
sys.stderr.write("\\n" + json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
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


def light(*arguments: str) -> tuple[int, str]:
    """Exit status and output of a command that must import nothing heavy."""
    done = run(SHOW, *arguments)
    said, _, last = done.stderr.rpartition("\n")
    seen = json.loads(last)
    assert not HEAVY & set(seen["modules"]), arguments
    return seen["code"], done.stdout + said


def test_help_imports_no_library_that_takes_seconds():
    code, text = light("--help")
    assert code == 0 and all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_so_does_the_help_of_each_command(command):
    assert light(command, "-h")[0] == 0


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
    code, text = light(*arguments)
    assert code == status and said in text


def test_a_method_of_ones_own_is_told_as_fast(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    code, text = light("train", "mine", "--import", str(tmp_path / "mine.py"), "--min", "4")
    assert code == 2 and "Did you mean 'mine'?" in text


def test_what_the_command_left_out_comes_when_it_is_asked_for():
    code = "import hf_cl_command, sys, hf_cl; early = 'peft' in sys.modules; hf_cl.OnePromptConfig; from peft import PeftType"
    assert run(f"{code}; print(early, PeftType['ONE_PROMPT'].value)").stdout.split() == ["False", "ONE_PROMPT"]
