import time

import numpy as np
import pytest
from scipy import stats

from hf_cl.images.draws import hash64, uniform

INDEX = np.arange(2000)


def test_known_values_stay():
    """A resumed run under a later version must draw what the first one drew."""
    assert hash64((1, 2), [0, 1]).tolist() == [11463317812659239153, 13386177956947575930]
    assert uniform(0, 0, [7], 0, 2).tolist() == [[0.6442283068189001, 0.9594524351406147]]


def test_same_address_same_number_in_any_batch():
    whole = uniform(3, 5, INDEX, 1, 6)
    assert np.array_equal(uniform(3, 5, INDEX[::-1], 1, 6), whole[::-1])
    assert np.array_equal(uniform(3, 5, INDEX[40:41], 1, 6), whole[40:41])
    assert np.array_equal(uniform(3, 5, INDEX, 1, 2), whole[:, :2])
    assert uniform(3, 5, [], 1, 6).shape == (0, 6)


@pytest.mark.parametrize("other", [(4, 5, 1), (3, 6, 1), (3, 5, 0), (5, 3, 1), (-3, 5, 1), (3, 5 + 2**32, 1)])
def test_another_seed_epoch_or_stream_gives_unrelated_numbers(other):
    seed, epoch, stream = other
    here, there = uniform(3, 5, INDEX, 1, 4), uniform(seed, epoch, INDEX, stream, 4)
    assert abs(np.corrcoef(here.ravel(), there.ravel())[0, 1]) < 4 / np.sqrt(here.size)


@pytest.mark.parametrize("axis", ["samples", "draws", "epochs"])
def test_uniform(axis):
    """Over 60 keys the p-values of a test of uniformity are themselves uniform: neither too rough nor too even."""
    sequences = {
        "samples": lambda key: uniform(key, 0, np.arange(5000), 0, 1)[:, 0],
        "draws": lambda key: uniform(0, 0, [key], 0, 5000)[0],
        "epochs": lambda key: np.concatenate([uniform(key, epoch, [11], 0, 1)[0] for epoch in range(300)]),
    }
    draws = [sequences[axis](key) for key in range(60)]
    assert min(d.min() for d in draws) >= 0
    assert max(d.max() for d in draws) < 1
    assert stats.kstest([stats.kstest(d, "uniform").pvalue for d in draws], "uniform").pvalue > 1e-3


def test_neighbours_are_independent():
    draws = uniform(0, 0, np.arange(20_000), 0, 3)
    pairs = [(draws[:-1, 0], draws[1:, 0]), (draws[:, 0], draws[:, 1]), (draws[:, 0], draws[:, 2]), (draws[:-1, 1], draws[1:, 0])]
    for first, second in pairs:
        counts = np.histogram2d(first, second, bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_one_bit_of_the_sample_id_flips_half_of_the_bits():
    base = hash64((0,), INDEX)
    for bit in range(64):
        flipped = np.bitwise_count(base ^ hash64((0,), INDEX.astype(np.uint64) ^ np.uint64(1 << bit)))
        assert abs(flipped.mean() - 32) < 0.5


def test_a_batch_takes_well_under_a_millisecond():
    index = np.arange(128)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        uniform(0, 0, index, 0, 20)
        times.append(time.perf_counter() - begin)
    assert min(times) < 5e-4
