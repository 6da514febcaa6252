"""What a terminal shows: help, version, completion."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from hf_cl.methods import METHODS


def test_the_version(call):
    shown = call("--version")
    assert shown.exit_code == 0 and shown.stdout == f"hf-cl {version('hf-cl')}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_by_both_flags(call, flag, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = call("app", flag)
    assert shown.exit_code == 0 and "pip install '.[app]'" in shown.stdout


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_of_a_method_is_wrapped_and_keeps_its_flags(call, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = call("train", "coact", "-h").stdout
    lines = text.splitlines()[1:]  # the usage line names all configs, for copying
    assert max(map(len, lines)) <= columns
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(flags) == len(set(flags)) > 50 and "--import" in flags
    headings = [line for line in lines if line[:1].isalpha()]
    assert headings.index("What is set first") < headings.index("The method") < headings.index("Hub")
    objective = next(line for line in lines if "--objective" in line)
    assert "fixed|figure" in objective


def complete(words: str) -> list[str]:
    """What a shell is offered for a line whose last word is being typed."""
    code = "import sys; sys.argv = ['hf-cl']; from hf_cl_command import main; main()"
    environment = {"_HF_CL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    import os

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hf-cl train ", [*METHODS]),
        ("hf-cl train ovor --ep", ["--epochs"]),
        ("hf-cl train ovor --config ", ["cifar100", "demo", "imagenet_r", "own_images", "none"]),
        ("hf-cl train ovor --epochs 3 --head p", ["prototype"]),
        ("hf-cl train coact --objective ", ["fixed", "figure"]),
        ("hf-cl train glad --rule s", ["sam", "sagm"]),
        ("hf-cl train compose --rule pro", ["prograd"]),
        ("hf-cl train lora --backbone d", ["demo", "demo_clip"]),
        ("hf-cl train lora --protocol base", ["base_to_novel"]),
    ],
)
def test_a_shell_completes(words, offered):
    assert complete(words) == offered
