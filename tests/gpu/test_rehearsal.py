"""`make gpu` on a machine without one: what it does has run, and what is missing is said."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu, on_a_gpu, scan, two_pass
from benchmarks.measure import Options, Pair


@pytest.mark.slow
def test_rehearsal_ends_with_a_table(tmp_path):
    file = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "benchmarks.on_a_gpu", "--device", "cpu", "--tiny", "--minutes", "60", "--output", str(file)]
    done = subprocess.run(command, cwd=on_a_gpu.ROOT, capture_output=True, text=True, check=False)
    table = file.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in table.splitlines()[0] and "ended early" not in table
    assert [line.split("|")[2].strip() for line in table.splitlines() if line.startswith(("| gpu", "| two passes", "| scan"))] == ROWS


ROWS = [
    *(
        row
        for kind in ("ONE_PROMPT", "CPE_CLIP", "ASYNC_LORA", "GLAD", "SARA")
        for row in (
            f"{kind}, rehearsal, batch 2, on a batch that is there",
            f"{kind}, step, rehearsal",
            *([f"{kind}, operations per second, rehearsal"] if kind != "CPE_CLIP" else []),
        )
    ),
    *(f"{kind}, peak memory of a step beyond weights, rehearsal" for kind in ("SARA", "ASYNC_LORA")),
    "LoRA through the trainer, input pipeline on, rehearsal",
    *(f"OnePrompt {what}{precision}, rehearsal" for precision in ("", " in bf16") for what in ("training step", "evaluation")),
    "Mamba-FSCIL's projector, 7 x 7 places, scan in chunks",
    "OnePrompt's step compiled, rehearsal",
]


def test_the_rows(monkeypatch):
    """Both sides of every row are built, and the trainer runs; nothing is timed."""
    for module in (gpu, two_pass, scan):
        monkeypatch.setattr(module, "paired", lambda *sides, **arguments: Pair([1.0], [1.0]))
    for module in (gpu, two_pass):
        monkeypatch.setattr(module, "flops", lambda call: 1)
    monkeypatch.setattr(gpu, "seconds", lambda call, device: 1.0)
    monkeypatch.setattr(gpu, "_peak", lambda call, options: 1.0)
    assert [row.name for row in gpu.rows(Options(torch.device("cpu"), ["rehearsal"], repeats=1))] == ROWS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_a_gpu"])
    assert on_a_gpu.main() == 2
    assert capsys.readouterr().err.startswith("missing: a CUDA device: torch ")


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(on_a_gpu, "NEEDED", ("torch", "no_such_package"))
    assert on_a_gpu.missing("cpu") == ["the package no_such_package: pip install -e '.[test]' (from wheels, where there is no network)"]
