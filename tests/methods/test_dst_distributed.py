"""Rewirings see the gradient of the whole batch: two processes hold the same entries as one."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import result_of_two


@pytest.mark.distributed
def test_two_processes_are_one(tmp_path):
    found = result_of_two(Path(__file__).with_name("dst_two_processes.py"), tmp_path)
    assert found["moved"] > 100
    assert max(found["differences"]) < 1e-5
