"""Fixed targets and token heads on two processes: what one trains, mixed features and the losses of the second branch among it."""

from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest
import torch
from methods import token_heads_case
from methods.token_heads_case import METHODS, run
from safetensors.torch import load_file

OFTEN = "mamba_fscil"
"""It has what the others have, but for class vectors."""


@pytest.mark.distributed
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == OFTEN else pytest.mark.slow) for name in METHODS])
def test_two_processes_train_what_one_trains(name, tmp_path):
    done = processes.run(Path(token_heads_case.__file__), tmp_path / "two", name, processes=2, ACCELERATE_USE_CPU="true")
    assert done.status == 0, done.output[-4000:]
    run(tmp_path / "one", name)
    one, two = (tmp_path / who / name for who in ("one", "two"))
    for session in range(3):
        mine, theirs = (load_file(folder / f"adapters/session-{session}/adapter_model.safetensors") for folder in (one, two))
        assert mine.keys() == theirs.keys() and any(tensor.dtype == torch.float64 for tensor in mine.values())
        for key, tensor in mine.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=1e-10, msg=lambda said, key=key: f"{key}: {said}")
    found, other = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert found["accuracy_matrix"] == other["accuracy_matrix"]
