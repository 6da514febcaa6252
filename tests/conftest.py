"""What every test starts from."""

import os
import tempfile

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

os.environ["HF_CL_CACHE"] = tempfile.mkdtemp(prefix="hf_cl-tests-")  # of child processes, too

torch.set_num_threads(1)
# One thread per process: the suite runs in several, and results that must be equal to the bit must not depend on how sums are split.


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps devices and precision in process-wide state: a test must not inherit another's."""
    yield
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()
