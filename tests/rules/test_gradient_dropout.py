"""Gradient dropout: which entries go, that its draws do not depend on what ran before, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hf_cl.rules import GradientDropout
from hf_cl.rules.gradient_dropout import dropped


def test_an_entry_goes_as_often_as_its_conflict_says():
    a = torch.ones(20_000)
    uniform = torch.rand(len(a), generator=torch.Generator().manual_seed(0))
    kept = dropped(a, -2 * a, uniform, 1.0).mean()
    assert abs(float(kept) - 1 / 3) < 3 * (2 / 9 / len(a)) ** 0.5


def closures(model: nn.Module):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    return [lambda: {"main": model(x).square().mean(), "zero_shot_kl": (model(x) - 1).square().mean()}]


def gradient(rule: GradientDropout, steps: int = 0) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    for _ in range(steps):
        rule.after_step(None)  # type: ignore[arg-type]
    rule.compute(closures(model), list(model.named_parameters()), Accelerator(cpu=True), model)
    assert model.weight.grad is not None
    return model.weight.grad.clone()


def test_draws_are_a_function_of_seed_and_step():
    def rule(seed: int) -> GradientDropout:
        made = GradientDropout()
        made.begin_session(SimpleNamespace(seed=seed), None)  # type: ignore[arg-type]
        return made

    first = gradient(rule(0))
    torch.rand(5)
    assert torch.equal(gradient(rule(0)), first)
    assert not torch.equal(gradient(rule(0), steps=1), first) and not torch.equal(gradient(rule(1)), first)
    resumed = rule(0)
    resumed.load_state_dict({"steps": 1})
    assert torch.equal(gradient(resumed), gradient(rule(0), steps=1))


def test_what_is_kept_is_the_gradient_of_the_other_losses():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    closures(model)[0]()["main"].backward()
    assert model.weight.grad is not None
    found = gradient(GradientDropout())
    is_kept = found == model.weight.grad
    assert is_kept.any() and (is_kept | (found == 0)).all() and not is_kept.all()
    assert torch.equal(gradient(GradientDropout(strength=0.0)), model.weight.grad)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="strength must lie between 0 and 1"):
        GradientDropout(strength=1.5)
    model = nn.Linear(2, 2)
    known = list(model.named_parameters())

    def compute(losses):
        GradientDropout().compute([lambda: losses], known, Accelerator(cpu=True), model)

    some = model(torch.ones(1, 2)).sum()
    with pytest.raises(ValueError, match="GradientDropout: the phase has no loss 'zero_shot_kl'"):
        compute({"main": some})
    with pytest.raises(ValueError, match="'zero_shot_kl' depends on nothing that trains"):
        compute({"main": some, "zero_shot_kl": torch.ones((), requires_grad=True) * 1.0})
