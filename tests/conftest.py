"""What every test starts from."""

import os
import tempfile

import torch

os.environ["HF_CL_CACHE"] = tempfile.mkdtemp(prefix="hf_cl-tests-")  # of child processes, too

torch.set_num_threads(1)
# One thread per process: the suite runs in several, and results that must be equal to the bit must not depend on how sums are split.
