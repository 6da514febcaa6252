"""The same bytes from the same run on a GPU too: kernels whose sums have one order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS reads, once per process; with either of `GOOD` it splits sums the same way every time (CUDA's documentation of cuBLAS)."""
GOOD = (":4096:8", ":16:8")


def prepare_deterministic() -> None:
    """Set what is read once per process, before anything runs on the GPU.

    Raises ValueError where CUDA has begun without it, or where the variable has another value.
    """
    found = os.environ.get(WORKSPACE)
    if found is None and not torch.cuda.is_initialized():
        os.environ[WORKSPACE] = GOOD[0]
    elif torch.cuda.is_available() and found not in GOOD:
        raise ValueError(
            f"deterministic needs {WORKSPACE}={GOOD[0]} before this process first uses CUDA, which has happened; it is "
            f"{'not set' if found is None else found}. Set it in the shell, or before torch is imported."
        )


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Inside, and only with `on`: PyTorch's deterministic algorithms, cuDNN's, no trial of kernels, and attention without cuDNN's kernel.

    An operation that has no such algorithm raises RuntimeError and names itself. The flash and the memory-efficient kernel of attention
    take an order of their own under this switch. Everything is as it was afterwards.
    """
    if not on:
        yield
        return
    cuda, memory = torch.backends.cuda, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    sdp, fill = cuda.cudnn_sdp_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cuda.enable_cudnn_sdp(False)
    # a help against reading what nobody wrote, at the cost of a kernel per new tensor; a property of the module that no type checker knows
    setattr(memory, "fill_uninitialized_memory", False)  # noqa: B010
    try:
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        setattr(memory, "fill_uninitialized_memory", fill)  # noqa: B010
        cuda.enable_cudnn_sdp(sdp)
