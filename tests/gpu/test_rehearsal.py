"""`make gpu` on a machine without one: what it does has run, and what is missing is said."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import on_a_gpu


@pytest.mark.slow
def test_rehearsal_ends_with_a_table(tmp_path):
    file = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "benchmarks.on_a_gpu", "--device", "cpu", "--tiny", "--minutes", "60", "--output", str(file)]
    done = subprocess.run(command, cwd=on_a_gpu.ROOT, capture_output=True, text=True, check=False)
    table = file.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in table.splitlines()[0] and "ended early" not in table
    for row in ("input pipeline on", "by hand", "peak memory of a step", "two passes", "compiled"):
        assert row in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_a_gpu"])
    assert on_a_gpu.main() == 2
    assert capsys.readouterr().err.startswith("missing: a CUDA device: torch ")


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(on_a_gpu, "NEEDED", ("torch", "no_such_package"))
    assert on_a_gpu.missing("cpu") == ["the package no_such_package: pip install -e '.[test]' (from wheels, where there is no network)"]
