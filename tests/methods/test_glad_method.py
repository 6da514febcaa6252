"""GLAD's composition."""

from __future__ import annotations

import math

import pytest
import torch

from hf_cl.adapters import GladConfig
from hf_cl.contracts import Session
from hf_cl.methods.glad import GladSettings, glad
from hf_cl.rules import Glad, Plain, ProGrad


def session(number: int = 0, images: int = 100, batch_size: int = 32) -> Session:
    return Session(number, ("a", "b"), ("a", "b"), train=range(images), tests=(), batch_size=batch_size)  # pyright: ignore[reportArgumentType]


def test_lengths_in_whole_epochs():
    method = glad(iterations=10, session_iterations=3)
    assert [phase.epochs for phase in method.phases(session(0, 100))] == [3]  # 4 steps an epoch
    assert [phase.epochs for phase in method.phases(session(1, 100))] == [1]
    assert [phase.epochs for phase in glad(iterations=8000).phases(session(0, 16 * 50))] == [320]


def test_cosine_per_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer, schedule = glad(iterations=8).optimizer(session(0, 100, 25), [("p", parameter)])
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["weight_decay"] == 1e-2
    found = [schedule(epoch, step)[0] for epoch in range(2) for step in range(4)]
    assert found == pytest.approx([1e-6 + (2e-4 - 1e-6) * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)])


def test_the_rule_is_the_record():
    method = glad(adapter=GladConfig(rho=0.1, lam=0.3))
    assert type(method.rule) is Glad and (method.rule.rho, method.rule.lam) == (0.1, 0.3)
    method.adapter.check_rule(method.rule)
    assert type(glad(adapter=GladConfig(rule="none")).rule) is Plain
    prograd = glad(adapter=GladConfig(rule="prograd"))
    (phase,) = prograd.phases(session())
    assert type(prograd.rule) is ProGrad and [term.name for term in phase.losses] == ["cross_entropy", "zero_shot_kl"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"optimizer": "lion"}, "adamw or sgd"), ({"iterations": 0}, "at least 1"), ({"session_iterations": 0}, "at least 1")],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        glad(**settings)


def test_settings_make_the_method():
    method = GladSettings(rule="sam", rho=0.02, r=4, head={"type": "text", "template": "{}."}).method()
    assert (method.adapter.rule, method.adapter.rho, method.adapter.r, method.adapter.head["template"]) == ("sam", 0.02, 4, "{}.")
    assert GladSettings(rule="prograd").method().adapter.lam == 1.0
