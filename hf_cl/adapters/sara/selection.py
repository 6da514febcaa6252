"""Which entries of a tensor SaRA trains: those of smallest magnitude."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_cl.adapters.sara.config import SaraConfig

MAX_ENTRIES = 2**31 - 1
"""Positions are int32."""


def smallest(magnitudes: Tensor, count: int) -> Tensor:
    """[count] sorted positions of the `count` smallest of `magnitudes` [n]; among equal ones the first.

    Of `topk` only the values are used: its choice among equal ones differs between devices, and it must be the same in every process.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.long, device=magnitudes.device)
    limit = magnitudes.topk(count, largest=False, sorted=False).values.max()
    below = magnitudes < limit
    ties = (magnitudes == limit).nonzero().squeeze(1)[: count - int(below.sum())]
    return torch.cat([below.nonzero().squeeze(1), ties]).sort().values


def select(tensor: Tensor, config: SaraConfig, count: int | None = None) -> Tensor:
    """Flat positions of the entries of `tensor` to train: int32, sorted, distinct.

    The rule (|w| < threshold, strictly) is applied in float32, since a comparison in bfloat16 would depend on the base's dtype. With
    `count` (the size of a checkpoint, whose own positions come later) it is the `count` smallest, unless the rule gives as many.

    Raises ValueError where the tensor has more entries than int32 can number.
    """
    size = tensor.numel()
    if size > MAX_ENTRIES:
        raise ValueError(f"SARA numbers entries with int32; a tensor of {size} entries is too large for it.")
    if tensor.device.type == "meta":
        return torch.zeros(count or 0, dtype=torch.int32)
    magnitudes = tensor.detach().flatten().to(torch.promote_types(tensor.dtype, torch.float32)).abs()  # [n]
    if config.density is None:
        positions = (magnitudes < config.threshold).nonzero().squeeze(1)
    else:
        positions = smallest(magnitudes, max(1, int(config.density * size)))
    if count is not None and len(positions) != count:
        positions = smallest(magnitudes, count)
    return positions.to(torch.int32)


def check_positions(indices: Tensor, num_values: int, limit: int, where: str) -> None:
    """Raise ValueError unless `indices` are `num_values` sorted, distinct positions below `limit`."""
    if indices.dim() != 1 or indices.dtype != torch.int32:
        raise ValueError(f"{where}: positions must be a row of int32, found {indices.dtype} of shape {tuple(indices.shape)}.")
    if len(indices) != num_values:
        raise ValueError(f"{where}: {len(indices)} positions for {num_values} values; the adapter's file is damaged.")
    if num_values == 0:
        return
    first, last = int(indices[0]), int(indices[-1])
    if not bool((indices[1:] > indices[:-1]).all()):
        raise ValueError(f"{where}: positions are not sorted and distinct; the adapter's file is damaged.")
    if first < 0 or last >= limit:
        bad = first if first < 0 else last
        raise ValueError(f"{where}: position {bad} is beyond the {limit} entries there; the adapter was made for another base.")
