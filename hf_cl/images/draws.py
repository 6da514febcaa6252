"""Random numbers that are a pure function of their address: no generator, no state, no order of calls.

A draw's address is (seed, epoch, sample, stream, position). Each word of it goes through the finaliser of SplitMix64 (Steele, Lea and
Flood: Fast splittable pseudorandom number generators, OOPSLA 2014; constants: Stafford's mix 13), which changes every output bit with
probability one half when one input bit changes. Equal addresses give equal numbers on every machine, in every batch, after every resume.

Letters: B samples, K draws per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WORD = (1 << 64) - 1
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 / golden ratio: keeps a word of zeros from staying zero


def hash64(key: Sequence[int], counters: ArrayLike) -> NDArray[np.uint64]:
    """One well-mixed 64-bit word per counter.

    Args:
        key: integers of any size and sign (64 bits of each count); keys of different lengths give unrelated words.
        counters: integers, any shape.

    Returns: words, the shape of `counters`.
    """
    state = np.array([len(key)], dtype=np.uint64)
    for word in key:
        state = _mix((state ^ np.uint64(word & _WORD)) + _STEP)
    counters = np.asarray(counters).astype(np.uint64)
    return _mix(_mix((state ^ counters) + _STEP) + state).reshape(counters.shape)


def uniform(seed: int, epoch: int, index: ArrayLike, stream: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), 53 random bits each.

    Args:
        seed, epoch: of the run.
        index: stable ids of the samples, [B].
        stream: keeps uses apart that share seed, epoch and sample; augmentation takes the number of the view.
        count: draws per sample, K. The first draws do not depend on it.

    Returns: [B, K].
    """
    words = hash64((seed, epoch, stream), index)  # [B]
    steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP  # [K]
    bits = _mix(words[:, None] + steps)  # [B, K]
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
