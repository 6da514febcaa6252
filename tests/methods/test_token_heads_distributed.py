"""Fixed targets and token heads on two processes: what one trains, mixed features and the losses of the second branch among it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from methods import token_heads_case
from processes import result_of_two
from safetensors.torch import load_file


@pytest.mark.distributed
def test_two_processes_train_what_one_trains(tmp_path):
    """One test, so that the processes are started once."""
    assert result_of_two(Path(token_heads_case.__file__), tmp_path) == {"processes": "2"}
    for name in token_heads_case.METHODS:
        token_heads_case.run(tmp_path / "one", name)
        one, two = (tmp_path / who / name for who in ("one", "two"))
        for session in range(3):
            mine, theirs = (load_file(folder / f"adapters/session-{session}/adapter_model.safetensors") for folder in (one, two))
            assert mine.keys() == theirs.keys() and any(tensor.dtype == torch.float64 for tensor in mine.values())
            for key, tensor in mine.items():
                torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=1e-10, msg=lambda said, at=f"{name} {key}": f"{at}: {said}")
        found, other = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
        assert found["accuracy_matrix"] == other["accuracy_matrix"]
