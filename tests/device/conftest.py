"""Tests in here need a process in which the fake device is the only one."""

import pytest
from fake_device import device


@pytest.fixture(autouse=True)
def no_other_device():
    """Before anything is built: `device` skips the test where there is a real one."""
    device()
