"""The order of the data as a pure function of its key, cut into global batches and sliced by rank.

There is no sampler state: a resumed run asks for the same plan and starts it at another batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_cl.images.draws import hash64


def plan(num_samples: int, batch_size: int, key: Sequence[int], *, rank: int = 0, world: int = 1, start: int = 0) -> list[list[int]]:
    """Shuffled positions for one rank, one list per global batch.

    Args:
        num_samples: images in the data set.
        batch_size: images per batch over all ranks. The last batch holds what is left.
        key: what the order depends on, such as (seed, session, phase, epoch).
        rank, world: this process and the number of processes. The parts of one batch differ by one image at most and may be empty.
        start: global batches to leave out at the front.

    Raises ValueError for a batch size below 1.
    """
    order = np.argsort(hash64(key, np.arange(num_samples)), kind="stable").tolist()
    return _slices(order, batch_size, rank, world)[start:]


def sequential(num_samples: int, batch_size: int, *, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Positions 0, 1, 2, ... in the data set's order, each exactly once over the ranks; arguments as in `plan`."""
    return _slices(list(range(num_samples)), batch_size, rank, world)


def _slices(order: list[int], batch_size: int, rank: int, world: int) -> list[list[int]]:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return [batch[rank * len(batch) // world : (rank + 1) * len(batch) // world] for batch in batches]
