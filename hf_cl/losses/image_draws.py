"""Random numbers that a loss may draw for each image: a function of seed, step and sample id, and of nothing else.

A resume, another number of processes, another cut of the step into micro-batches and a rule with two passes draw the same.

Shapes: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_STEP, _FIRST, _SECOND = _GOLDEN - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
"""SplitMix64's (Steele, Lea, Flood, OOPSLA 2014), as signed words."""


def image_words(seed: int, step: int, index: Tensor, count: int) -> Tensor:
    """[B, count] random words of 64 bits, on the device of `index`.

    Args:
        seed: of the loss in this session, from 0 below 2**62; `trainer.generator_for(name, session.id)` draws one.
        step: `ctx.step`.
        index: [B] sample ids, `ctx.batch["index"]`.
    """
    key = (seed + step * _GOLDEN) % 2**63
    places = torch.arange(count, device=index.device)
    return _mixed(_mixed(index[:, None] * _STEP + key) + places * _STEP)


def image_uniforms(seed: int, step: int, index: Tensor, count: int) -> Tensor:
    """[B, count] float32, uniform in (0, 1): both ends are left out. Arguments as `image_words`."""
    return ((image_words(seed, step, index, count) >> 40 & (1 << 24) - 1).float() + 0.5) * 2.0**-24


def _mixed(word: Tensor) -> Tensor:
    word = (word ^ (word >> 30 & (1 << 34) - 1)) * _FIRST
    word = (word ^ (word >> 27 & (1 << 37) - 1)) * _SECOND
    return word ^ (word >> 31 & (1 << 33) - 1)
