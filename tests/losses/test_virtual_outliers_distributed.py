"""Virtual outliers on two processes."""

from pathlib import Path

import pytest
from processes import result_of_two


@pytest.mark.distributed
def test_two_processes_train_the_head_of_one(tmp_path):
    """The bare head is called in the loss beside DDP's forward: its gradient is synchronised with the rest, once."""
    found = result_of_two(Path(__file__).with_name("two_processes.py"), tmp_path)
    for value in found.values():
        assert value["error"] < 1e-14 and value["spread"] == 0.0 and value["outliers_differ"] == 0.0
        assert value["moved"] > 1e-2
