"""The batch of all processes together, for losses that compare samples with each other.

Shapes: b samples of this process, M samples of all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class GlobalBatch(NamedTuple):
    """What `gather_batch` gives. This process's samples come first."""

    tensors: tuple[Tensor, ...]
    """[M, ...] each: this process's own with their graph, the others' without."""
    valid: Tensor
    """[M] False for the second occurrence of a sample: a process without a share of a last small batch repeats another's image."""


def gather_batch(index: Tensor, *tensors: Tensor) -> GlobalBatch:
    """Put the samples of all processes together.

    Every process must call it the same number of times. One process gets back what it gave.

    Args:
        index: [b] ids of the samples.
        tensors: [b, ...] what belongs to them; gradients flow through this process's part alone.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return GlobalBatch(tensors, torch.ones_like(index, dtype=torch.bool))
    sizes = _sizes(len(index))
    everybody = _gather(index, sizes)  # [M]
    earlier = (everybody[:, None] == everybody).tril(-1)  # [M, M]
    valid = ~earlier.any(1)  # [M]
    return GlobalBatch(tuple(_gather(t, sizes) for t in tensors), valid)


def as_own_share(loss: Tensor, mine: int, valid: Tensor) -> Tensor:
    """A loss of the whole global batch, as one process gives it to the loop.

    The loop weights a process by its share of the samples: right for the value, which all have, but a gradient has one process alone.

    Args:
        loss: the same on every process, without dimensions.
        mine: samples of this process.
        valid: [M], as `gather_batch` gives it.
    """
    share = mine / valid.sum().to(loss.dtype)
    return loss.detach() + (loss - loss.detach()) / share


def _sizes(mine: int) -> list[int]:
    """How many samples each process has. Exchanged between the hosts, so that no device has to be waited for."""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    dist.all_gather_into_tensor(sizes, torch.tensor([mine]), group=_host_group(dist.group.WORLD))
    return sizes.tolist()


@lru_cache(maxsize=1)
def _host_group(world: Any) -> Any:
    return dist.new_group(backend="gloo")


def _gather(mine: Tensor, sizes: list[int]) -> Tensor:
    """[b, ...] -> [M, ...]"""
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    rank = dist.get_rank()
    return torch.cat([mine, *(part[:size] for r, (part, size) in enumerate(zip(parts, sizes, strict=True)) if r != rank)])
