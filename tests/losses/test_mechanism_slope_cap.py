"""A session that trains longer gets longer rows and wins against all others, unless its slope is capped. Run by `make torture`."""

from __future__ import annotations

import pytest
import torch
from losses.fakes import FakeTrainer, context_of, session_of

from hf_cl.heads import LinearHead
from hf_cl.losses import MaskedCrossEntropy, SlopeCap
from hf_cl.losses.slope_cap import pair_norms

pytestmark = pytest.mark.slow

SESSIONS, CLASSES, WIDTH = 10, 4, 48


def features(seed):
    """Training and test features of 40 classes around one common direction, as a frozen backbone gives them."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(WIDTH, generator=generator) + 0.4 * torch.randn(SESSIONS * CLASSES, WIDTH, generator=generator)
    sets = []
    for shots in (20, 25):
        labels = torch.arange(SESSIONS * CLASSES).repeat_interleave(shots)
        sets.append((means[labels] + 0.4 * torch.randn(len(labels), WIDTH, generator=generator), labels))
    return sets


def trained(seed, cap=None, longest=80):
    """(accuracy over all classes, mean pair slope of each session) of a linear head; odd sessions last `longest` epochs."""
    (x, y), (test, test_labels) = features(seed)
    torch.manual_seed(seed)
    head, main = LinearHead(WIDTH, CLASSES), MaskedCrossEntropy()
    for number in range(SESSIONS):
        if number:
            head.grow([f"class {CLASSES * number + i}" for i in range(CLASSES)])
        session = session_of(CLASSES * (number + 1), CLASSES)
        trainer = FakeTrainer(head, None, session)
        if cap is not None:
            cap.begin_session(trainer, session)
        optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
        own = (y // CLASSES == number).nonzero()[:, 0]
        for _ in range(longest if number % 2 else 20):
            for rows in own[torch.randperm(len(own))].split(64):
                ctx = context_of(head(x[rows]), y[rows], session, features=x[rows])
                loss = main(ctx) if cap is None else main(ctx) + cap.weight_at(0) * cap(ctx)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if cap is not None:
            cap.end_session(trainer, session)
    with torch.no_grad():
        right = (head(test).argmax(1) == test_labels).float().mean().item()
        return right, [pair_norms(rows).mean().item() for rows in head.weight.split(CLASSES)]


@pytest.mark.parametrize("seed", range(5))
def test_uneven_sessions_meet_at_one_slope(seed):
    (none, steep), (capped, held) = trained(seed), trained(seed, SlopeCap())
    assert min(steep[1::2]) > 1.5 * max(steep[::2]), steep
    assert max(held) < 1.1 * held[0], held
    assert capped > none + 0.04, (capped, none)
    stiff, _ = trained(seed, SlopeCap(weight=10.0))
    assert abs(stiff - capped) < 0.03, (stiff, capped)


@pytest.mark.parametrize("seed", range(5))
def test_even_sessions_lose_nothing(seed):
    (none, _), (capped, _) = trained(seed, longest=20), trained(seed, SlopeCap(), longest=20)
    assert capped > none - 0.03, (capped, none)


def test_a_cap_that_nothing_reaches_is_not_there():
    assert trained(0, SlopeCap(alpha=1e9)) == trained(0)
