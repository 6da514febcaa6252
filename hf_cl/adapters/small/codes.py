"""Numbers in few bits: values as codes with a scale for each row, sorted positions as differences.

Shapes: R rows of K values, N entries in all; b bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_cl.adapters.bits import pack, packed_size, unpack

VALUE_BITS = (2, 3, 4, 8)
"""Bits that a value can have."""


def quantise(rows: Tensor, bits: int, scale_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:  # [R, K] -> [R, K], [R]
    """Codes (int8) and the scale of each row: `scale = max|w| / (2^(bits - 1) - 1)`, `code = w / scale` rounded half to even.

    Args:
        rows: finite.
        bits: 2, 3, 4 or 8.
        scale_dtype: in which scales are kept; codes then belong to the rounded scales. None: as the rows.

    Raises ValueError for other bits and values that are not finite.
    """
    if bits not in VALUE_BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, VALUE_BITS))}, got {bits!r}.")
    if not bool(rows.isfinite().all()):
        raise ValueError("There are values that are not finite, and no code stands for them.")
    top = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(-1) / top  # [R]
    if scale_dtype is not None:
        scale = scale.to(scale_dtype)
    steps = scale.to(rows.dtype)[:, None]  # [R, 1]
    codes = torch.where(steps > 0, rows / steps, 0.0).round().clamp(-top, top)
    return codes.to(torch.int8), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:  # [R, K], [R] -> [R, K]
    """The values that codes and scales stand for, in float32 or wider."""
    wide = scale.to(torch.promote_types(scale.dtype, torch.float32))
    return codes.to(wide.dtype) * wide[:, None]


def pack_codes(codes: Tensor, bits: int) -> Tensor:  # [...] int8 -> [bytes] uint8
    """Codes one after the other; below 8 bits as code + 2^(bits - 1) - 1, highest bit first."""
    if bits == 8:
        return codes.flatten().view(torch.uint8)
    return pack_words(codes.flatten().long() + 2 ** (bits - 1) - 1, bits)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:  # [bytes] uint8 -> [count] int8
    """The other direction."""
    if bits == 8:
        return packed.view(torch.int8)
    return (unpack_words(packed, bits, count) - (2 ** (bits - 1) - 1)).to(torch.int8)


def pack_words(words: Tensor, bits: int) -> Tensor:  # [N] int64 -> [N b / 8, rounded up] uint8
    """Whole numbers of `bits` bits each, not negative."""
    return pack((words[:, None] >> _shifts(bits, words)) & 1)


def unpack_words(packed: Tensor, bits: int, count: int) -> Tensor:  # [bytes] uint8 -> [count] int64
    """The other direction."""
    found = unpack(packed, torch.Size((count, bits))).long()  # [count, b]
    return (found << _shifts(bits, packed)).sum(1)


def words_size(count: int, bits: int) -> int:
    """Bytes that so many numbers of so many bits take."""
    return packed_size(count * bits)


def gaps(positions: Tensor) -> Tensor:  # [..., N] -> [..., N] int64
    """Of sorted positions: the first, and by how much each is beyond the one before it."""
    wide = positions.long()
    return wide.diff(dim=-1, prepend=torch.zeros_like(wide[..., :1]))


def positions_of(differences: Tensor) -> Tensor:  # [..., N] -> [..., N] int32
    """The positions that have these differences."""
    return differences.cumsum(-1).to(torch.int32)


def _shifts(bits: int, like: Tensor) -> Tensor:
    return torch.arange(bits - 1, -1, -1, device=like.device)
