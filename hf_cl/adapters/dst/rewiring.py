"""Which entries of a sparse tensor go, and which come in their place.

Shapes: N entries of a tensor, n of them active, k that change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_cl.adapters.sara.selection import smallest

Draw = Callable[[int], Tensor]
"""A random order of so many things."""


def densities(shapes: Sequence[Sequence[int]], density: float, init: str) -> list[float]:
    """Of each layer, so that all together have `density`.

    "erk": in proportion to (sum of the axes) / (their product), Erdos-Renyi kernel, Evci et al., "Rigging the Lottery", ICML 2020; a layer
    that this would fill more than once is dense, and the others share what is left.
    """
    if init == "uniform":
        return [density] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        budget = density * sum(sizes) - sum(sizes[i] for i in dense)
        factor = budget / sum(raw[i] * sizes[i] for i in rest)
        largest = max(raw[i] for i in rest)
        if factor * largest <= 1:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        dense |= {i for i in rest if raw[i] == largest}


def death_rate(step: int, steps: int, start: float, end: float) -> float:
    """Share of a layer's entries that a rewiring after so many of a session's steps drops: half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def dying(values: Tensor, gradients: Tensor | None, count: int, how: str) -> Tensor:
    """[k] sorted places among the n active entries that go, `count` of them.

    "magnitude": the smallest. "taylor": those of the smallest (value * gradient)^2. "set": half of them the smallest positive, half the
    negative ones closest to zero; where a sign has too few, the other gives more. Among equal ones the first.
    """
    if how == "taylor":
        assert gradients is not None
        return smallest((values * gradients).square(), count)
    if how == "magnitude":
        return smallest(values.abs(), count)
    positive, negative = (values > 0).nonzero().squeeze(1), (values <= 0).nonzero().squeeze(1)
    of_positive = min(len(positive), max(math.ceil(count / 2), count - len(negative)))
    chosen = [positive[smallest(values[positive], of_positive)], negative[smallest(-values[negative], count - of_positive)]]
    return torch.cat(chosen).sort().values


def largest(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """[k] sorted positions of the `count` largest `scores` [N] (not negative) among the `allowed` [N]; among equal ones the first."""
    return smallest(-torch.where(allowed, scores, -1.0), count)


def at_random(allowed: Tensor, count: int, draw: Draw, first: Tensor | None = None) -> Tensor:
    """[k] sorted positions of `count` of the `allowed` [N], drawn without replacement; those that are `first` [N] before all others."""
    groups = [allowed] if first is None else [allowed & first, allowed & ~first]
    chosen: list[Tensor] = []
    for group in groups:
        candidates = group.nonzero().squeeze(1)
        wanted = min(count - sum(len(some) for some in chosen), len(candidates))
        if wanted:
            chosen.append(candidates[draw(len(candidates))[:wanted].to(candidates.device)])
    return torch.cat([torch.empty(0, dtype=torch.long, device=allowed.device), *chosen]).sort().values
