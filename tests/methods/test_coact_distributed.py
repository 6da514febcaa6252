from __future__ import annotations

from pathlib import Path

import pytest
import torch
from coact_runs import build, files
from processes import result_of_two


@pytest.mark.distributed
def test_two_processes_train_what_one_trains(tmp_path):
    """Uneven last batches, the unfreezing in the middle of session 0, and the contrast of the global batch among them."""
    build(tmp_path / "one", lora_dropout=0.0, sessions=2).fit()
    found = result_of_two(Path(__file__).with_name("coact_two_processes.py"), tmp_path)
    assert found == {"processes": 2}
    for one, two in zip(files(tmp_path / "one"), files(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys() and len(one) == 16 + 18 + 3
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)
