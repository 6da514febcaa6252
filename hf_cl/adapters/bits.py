"""Masks as bits: eight entries a byte, row by row, the first in the highest bit, zeros at the end, as numpy.packbits has them.

Shapes: N entries of a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_size(entries: int) -> int:
    """Bytes that so many entries take."""
    return -(-entries // 8)


def pack(mask: Tensor) -> Tensor:  # [...] bool -> [N / 8, rounded up] uint8
    """The mask's bits."""
    flat = mask.flatten().to(torch.uint8)  # [N]
    padded = torch.nn.functional.pad(flat, (0, 8 * packed_size(len(flat)) - len(flat))).view(-1, 8)  # [bytes, 8]
    return (padded << _shifts(mask)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:  # [bytes] uint8 -> [*shape] bool
    """The mask of these bits."""
    flat = ((bits[:, None] >> _shifts(bits)) & 1).flatten()  # [8 * bytes]
    return flat[: shape.numel()].view(shape).bool()


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
