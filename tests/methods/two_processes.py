"""What scripts that train on two processes and on one do with both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator


def share_of(accelerator: Accelerator, images: int = 8) -> list[int]:
    """The positions of the images that this process trains on."""
    return list(range(images))[accelerator.process_index :: accelerator.num_processes]


def farthest(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest difference of an entry."""
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


def write(accelerator: Accelerator, result: Path, difference: float, moved: Any) -> None:
    """The differences of all processes, and how much moved."""
    differences = accelerator.gather(torch.tensor([difference])).tolist()
    if accelerator.is_main_process:
        result.write_text(json.dumps({"differences": differences, "moved": moved}))
