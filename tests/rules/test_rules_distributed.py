"""Two processes give the gradient of one, and the same one on both."""

from pathlib import Path

import pytest
from processes import result_of_two


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    found = result_of_two(Path(__file__).with_name("two_processes.py"), tmp_path)
    assert len(found) == 24
    wrong = {key: value for key, value in found.items() if not (value["error"] < 1e-14 and value["spread"] == 0.0)}
    assert not wrong
