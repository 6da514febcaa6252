"""Images that come class by class inside an epoch, in an order of their own, are forgotten more often than the same images shuffled."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_cl.probes.forgetting_events import visited


def events(seed: int, shuffled: bool) -> float:
    """Per image, of a linear classifier over 20 epochs of four overlapping Gaussian classes; predictions are those before each step."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 8, generator=g)
    x = (centres[:, None] + torch.randn(4, 25, 8, generator=g)).flatten(0, 1)
    y = torch.arange(4).repeat_interleave(25)
    weight, rows = torch.zeros(4, 8, requires_grad=True), torch.zeros(100, 4)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(20):
        right = torch.zeros(100, dtype=torch.bool)
        order = torch.randperm(100, generator=g)
        for batch in (order if shuffled else order[y[order].argsort(stable=True)]).split(5):
            logits = x[batch] @ weight.T
            right[batch] = logits.argmax(1) == y[batch]
            optimizer.zero_grad()
            F.cross_entropy(logits, y[batch]).backward()
            optimizer.step()
        rows = visited(rows, right)
    return rows[:, 2].mean().item()


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_forgotten_more_often(seed):
    assert events(seed, shuffled=False) > events(seed, shuffled=True)
