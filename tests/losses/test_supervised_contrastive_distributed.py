from __future__ import annotations

from pathlib import Path

import pytest
from processes import result_of_two


@pytest.mark.distributed
def test_two_processes_have_loss_and_gradient_of_the_global_batch(tmp_path):
    found = result_of_two(Path(__file__).with_name("contrast_two_processes.py"), tmp_path)
    assert len(found) == 9
    for case, value in found.items():
        assert value["value"] < 1e-12 and value["gradient"] < 1e-12 and value["spread"] == 0.0, (case, value)
    for case, value in found.items():
        assert value["size"] > 1e-2 or "repeats" in case, (case, value)
