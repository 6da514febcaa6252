"""How much memory a session took."""

from __future__ import annotations

import resource
import sys
from typing import Literal

import torch


def memory_kind(device: torch.device) -> Literal["cuda", "process"]:
    """What `take_peak_bytes` measures on a device; see `hf_cl.results.result_records.Memory`."""
    return "cuda" if device.type == "cuda" else "process"


def take_peak_bytes(device: torch.device) -> int:
    """Most bytes in use since the last call on a GPU, where the count begins anew; since the process began elsewhere."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
