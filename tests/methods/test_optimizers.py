from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hf_cl.methods import coact, etf, linear_probe, lora, mamba_fscil, maxsim, ovor
from hf_cl.methods.optimizers import adam, falling_adam
from hf_cl.methods.schedules import cosine

NAMED = [("a.lora_A.default.weight", nn.Parameter(torch.ones(2, 3))), ("head.bias", nn.Parameter(torch.ones(2)))]
FIRST: Any = SimpleNamespace(id=0)
LATER: Any = SimpleNamespace(id=3)


def test_without_decay_it_is_adam_over_all():
    optimizer, schedule = adam(NAMED, 0.1, cosine([0.1], 4))
    assert type(optimizer) is torch.optim.Adam and len(optimizer.param_groups) == 1
    assert schedule(0, 0) == [0.1]


def test_a_decay_moves_matrices_alone():
    named = [(name, nn.Parameter(p.detach().clone())) for name, p in NAMED]
    optimizer, schedule = adam(named, 0.1, cosine([0.1], 4), weight_decay=0.5)
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert schedule(0, 0) == [0.1, 0.1]
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(named[0][1], torch.full((2, 3), 0.95)) and torch.equal(named[1][1], torch.ones(2))


def test_a_session_without_vectors_has_one_group():
    optimizer, schedule = adam(NAMED[:1], 0.1, cosine([0.1], 4), weight_decay=0.5)
    assert len(optimizer.param_groups) == len(schedule(0, 0)) == 1


@pytest.mark.parametrize("method", [linear_probe, lora, ovor])
def test_methods_without_a_published_decay_have_the_setting(method):
    optimizer, _ = method(weight_decay=0.01).optimizer(FIRST, NAMED)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert type(method().optimizer(FIRST, NAMED)[0]) is torch.optim.Adam


def test_coacts_decay_is_a_setting():
    assert coact.__kwdefaults__["weight_decay"] == 5e-4


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay must not be negative"):
        adam(NAMED, 0.1, cosine([0.1], 4), weight_decay=-1)


def test_a_factor_of_the_rate_makes_groups_of_its_own():
    named = [*NAMED, ("a.async_lora_copy.default.weight", nn.Parameter(torch.ones(2, 2)))]
    optimizer, schedule = adam(named, 0.1, cosine([0.1], 4), factor=lambda name: 0.01 if "copy" in name else 1.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1] and schedule(0, 0) == pytest.approx([0.1, 0.001])


def test_the_rate_falls_in_every_session_anew():
    made = falling_adam(0.4, 4, session_learning_rate=0.1, session_epochs=2)
    for session, rates in ((FIRST, [0.4, 0.2 + 0.2 * 0.5**0.5, 0.2]), (LATER, [0.1, 0.05])):
        optimizer, schedule = made(session, NAMED)
        assert optimizer.param_groups[0]["lr"] == rates[0]
        assert [schedule(epoch, 0)[0] for epoch in range(len(rates))] == pytest.approx(rates)
    same = falling_adam(0.4, 4)  # of later sessions nothing is said
    assert same(LATER, NAMED)[1](2, 0) == same(FIRST, NAMED)[1](2, 0) == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("method", "first", "later"),
    [
        (etf(epochs=3, warmup_ce_epochs=1, session_epochs=2), (1e-3, 4), (5e-4, 2)),  # one cosine over both phases of session 0
        (mamba_fscil(epochs=3, session_epochs=2, session_learning_rate=0.1), (1e-3, 3), (0.1, 2)),
        (maxsim(epochs=3, session_epochs=2), (1e-3, 3), (1e-3, 2)),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_token_heads_have_a_length_of_their_own_after_session_0(method, first, later):
    for session, (rate, epochs) in ((FIRST, first), (LATER, later)):
        _, schedule = method.optimizer(session, NAMED)
        assert schedule(0, 0)[0] == rate and schedule(epochs, 0)[0] == pytest.approx(0.0)
