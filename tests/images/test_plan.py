from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_cl.images import plan, sequential

sizes = st.integers(0, 60), st.integers(1, 20), st.integers(1, 5)


@given(*sizes)
@settings(max_examples=60, deadline=None)
def test_ranks_share_every_global_batch(num_samples, batch_size, world):
    whole = plan(num_samples, batch_size, (1, 2))
    parts = [plan(num_samples, batch_size, (1, 2), rank=rank, world=world) for rank in range(world)]
    assert [list(chain(*slices)) for slices in zip(*parts, strict=True)] == whole
    assert sorted(chain(*whole)) == list(range(num_samples))
    for slices in zip(*parts, strict=True):
        lengths = [len(part) for part in slices]
        assert max(lengths) - min(lengths) <= 1


@given(*sizes)
@settings(max_examples=30, deadline=None)
def test_sequential_gives_every_image_once_in_order(num_samples, batch_size, world):
    parts = [sequential(num_samples, batch_size, rank=rank, world=world) for rank in range(world)]
    assert list(chain(*chain(*zip(*parts, strict=True)))) == list(range(num_samples))


def test_batch_sizes_and_last_batch():
    assert [len(batch) for batch in plan(10, 4, (0,))] == [4, 4, 2]


def test_start_leaves_out_the_front():
    assert plan(10, 3, (0, 1), start=2) == plan(10, 3, (0, 1))[2:]
    assert plan(10, 3, (0, 1), start=4) == []


def test_the_order_depends_on_the_whole_key_and_on_nothing_else():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (-1,)]
    orders = [tuple(plan(50, 50, key)[0]) for key in keys]
    assert len(set(orders)) == len(keys)
    assert plan(50, 50, keys[3]) == plan(50, 50, keys[3])
    assert [position for batch in plan(50, 7, (5,)) for position in batch] == plan(50, 50, (5,))[0]


def test_known_order_stays():
    """A resumed run under a later version must see the rest of the same epoch."""
    assert plan(8, 8, (0, 1, 2, 3)) == [[5, 7, 1, 6, 0, 4, 2, 3]]


def test_every_order_is_as_likely():
    counts = Counter(tuple(plan(3, 3, (0, epoch))[0]) for epoch in range(3000))
    assert len(counts) == 6
    assert np.ptp(list(counts.values())) < 6 * np.sqrt(3000 / 6)


def test_batch_size_zero_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        plan(5, 0, (0,))
