"""Which images of a session a memory keeps.

Letters: n images of a class, D feature width, k images kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Choose = Literal["herding", "random", "reservoir"]
CHOICES: tuple[Choose, ...] = ("herding", "random", "reservoir")


def herding(features: Tensor, count: int) -> list[int]:
    """Positions of `count` of the features [n, D], the most telling first.

    Each next one brings the mean of those chosen nearest to the mean of all, features at unit length: "Construct exemplar set" of iCaRL
    (Rebuffi, Kolesnikov, Sperl, Lampert: CVPR 2017, Algorithm 4). Every beginning of the list is the choice of that length. Of two that
    come equally near, the first.
    """
    unit = torch.nn.functional.normalize(features.detach().cpu().double())  # [n, D]
    mean = unit.mean(0)  # [D]
    total = torch.zeros_like(mean)  # [D]
    free = torch.ones(len(unit), dtype=torch.bool)
    chosen: list[int] = []
    for number in range(1, min(count, len(unit)) + 1):
        distances = (mean - (total + unit) / number).square().sum(1)  # [n]
        best = int(distances.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        total = total + unit[best]
    return chosen


def shuffled(count: int, key: Sequence[int | str]) -> list[int]:
    """The numbers below `count` in an order that is a function of `key` alone."""
    return torch.randperm(count, generator=_generator(key)).tolist()


def priorities(ids: Sequence[int], key: Sequence[int | str]) -> list[float]:
    """A number from 0 to 1 for each sample id, a function of key and id alone.

    Keeping the images with the smallest ones is a reservoir (Vitter: "Random sampling with a reservoir", TOMS 1985): after any number of
    sessions those kept are a uniform sample of all images that came, and nothing about the past has to be remembered for it.
    """
    words = np.frombuffer(hashlib.sha256(repr(tuple(key)).encode()).digest()[:8], dtype="<u8")
    mixed = [hashlib.blake2b(f"{words[0]} {index}".encode(), digest_size=8).digest() for index in ids]
    return [(int.from_bytes(digest, "little") >> 11) * 2.0**-53 for digest in mixed]


def drawn(kept: int, count: int, key: Sequence[int | str]) -> list[int]:
    """`count` different numbers below `kept`, all where there are no more; a function of `key` alone."""
    return torch.randperm(kept, generator=_generator(key))[:count].tolist()


def _generator(key: Sequence[int | str]) -> torch.Generator:
    digest = hashlib.sha256(repr(tuple(key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
