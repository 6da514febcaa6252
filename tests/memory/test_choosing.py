"""Which images a memory keeps, against the definitions written out."""

from __future__ import annotations

import itertools

import torch

from hf_cl.memory.choosing import drawn, herding, priorities, shuffled


def by_definition(features, count):
    """iCaRL's Algorithm 4, line by line, in Python's own sums."""
    rows = [[float(x) for x in row] for row in torch.nn.functional.normalize(features.double())]
    width = len(rows[0])
    mean = [sum(row[d] for row in rows) / len(rows) for d in range(width)]
    chosen: list[int] = []
    while len(chosen) < count:
        k = len(chosen) + 1

        def distance(candidate, k=k):
            total = [sum(rows[i][d] for i in [*chosen, candidate]) / k for d in range(width)]
            return sum((m - t) ** 2 for m, t in zip(mean, total, strict=True))

        chosen.append(min((i for i in range(len(rows)) if i not in chosen), key=distance))
    return chosen


def test_herding_is_icarls_algorithm():
    for seed in range(5):
        features = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)) + 1.0
        assert herding(features, 7) == by_definition(features, 7)


def test_herding_tells_more_of_the_mean_than_most_choices():
    """Its three lie nearer to the mean than nine of ten of all sets of three, and every beginning is a choice of its own."""
    features = torch.randn(14, 6, generator=torch.Generator().manual_seed(3))
    unit = torch.nn.functional.normalize(features.double())
    off = {some: float((unit[list(some)].mean(0) - unit.mean(0)).norm()) for some in itertools.combinations(range(14), 3)}
    mine = off[tuple(sorted(herding(features, 3)))]
    assert sum(value < mine for value in off.values()) < len(off) / 10
    assert herding(features, 6)[:3] == herding(features, 3)
    assert sorted(herding(features, 99)) == list(range(14))  # no more than there are


def test_a_reservoir_is_a_uniform_sample_whatever_came_when():
    """Ten of 40 images in two sessions of unlike size: each is kept in a quarter of 400 seeds; a session's share is its size."""
    counts = torch.zeros(40)
    for seed in range(400):
        first = [(p, i) for i, p in enumerate(priorities(range(30), ["reservoir", seed, 0]))]
        kept = sorted(first)[:10]  # after session 0 the others are gone
        second = [(p, 30 + i) for i, p in enumerate(priorities(range(30, 40), ["reservoir", seed, 1]))]
        for _, image in sorted([*kept, *second])[:10]:
            counts[image] += 1
    assert counts.sum() == 4000
    assert (counts - 100).abs().max() < 4.5 * (400 * 0.25 * 0.75) ** 0.5
    assert abs(float(counts[30:].sum()) / 4000 - 0.25) < 0.03


def test_draws_are_functions_of_their_key():
    assert shuffled(20, ["a", 1]) == shuffled(20, ["a", 1]) != shuffled(20, ["a", 2])
    assert sorted(drawn(9, 4, [0, 1])) != sorted(drawn(9, 4, [0, 2]))
    assert sorted(drawn(3, 8, [0])) == [0, 1, 2]
    assert priorities([5, 7], ["x"])[1] == priorities([7], ["x"])[0]
