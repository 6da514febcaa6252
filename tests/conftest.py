"""What every test starts from."""

import torch

torch.set_num_threads(1)
# One thread per process: the suite runs in several, and results that must be equal to the bit must not depend on how sums are split.
