"""Which images each step of an epoch has, and which of them a process runs: positions alone, before any pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hf_cl.images import plan, sequential

MicroPositions = tuple[list[int], float]
"""Positions of a micro-batch on one process, and their weight in the step (`MicroBatch.weight`)."""


class Replay(NamedTuple):
    """How images of a memory come into the steps."""

    own: int
    """Images of the session, which come first in the data set; those behind them are the memory's."""
    draw: Callable[[int], Sequence[int]] | None
    """Step of the epoch -> positions among the memory's images that are added to it; None: they are shuffled in with the session's."""


def planned(count: int, size: int, key: Sequence[int], replay: Replay | None, *, ordered: bool) -> list[list[int]]:
    """Positions of each step of an epoch: shuffled by `key`, or as they stand."""
    own = count if replay is None or replay.draw is None else replay.own
    steps = sequential(own, size) if ordered else plan(own, size, key)
    if replay is None or replay.draw is None:
        return steps
    return [spread(batch, [replay.own + position for position in replay.draw(step)]) for step, batch in enumerate(steps)]


def spread(batch: Sequence[int], others: Sequence[int]) -> list[int]:
    """`batch` with `others` spread evenly among it, so that however a step is cut each piece has its share of both."""
    places = [((i + 0.5) / len(part), kind, value) for kind, part in enumerate((batch, others)) for i, value in enumerate(part)]
    return [value for _, _, value in sorted(places, key=lambda place: place[:2])]


def parts_of(batch: list[int], count: int, rank: int, world: int) -> list[MicroPositions]:
    """The share of a global batch that process `rank` of `world` runs, in `count` micro-batches.

    An empty share, which a last small batch may leave, runs one image with weight 0, so that every process makes the same calls. The
    image is one of the same micro-batch where it has any: a loss that compares the samples of all processes must meet no others.
    """
    parts = []
    for number in range(count):
        micro = batch[number * len(batch) // count : (number + 1) * len(batch) // count]
        mine = micro[rank * len(micro) // world : (rank + 1) * len(micro) // world]
        parts.append((mine or micro[:1] or batch[:1], len(mine) * world / len(batch)))
    return parts
