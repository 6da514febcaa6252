"""Densities, death and growth against the numbers of the official functions, and a planted support that is found."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor, nn

from hf_cl.adapters import DstConfig
from hf_cl.adapters.dst.rewiring import at_random, death_rate, densities, dying, largest

NUMBERS = np.load(Path(__file__).parents[2] / "reference" / "dst" / "dst.npz", allow_pickle=False)
ERK = [name for name in NUMBERS.files if name.startswith("erk.") and "density" in name]


def number(name: str) -> Tensor:
    return torch.tensor(NUMBERS[name])


@pytest.mark.parametrize("name", ERK)
def test_erk_densities_are_the_official_ones(name):
    shapes = [[int(n) for n in shape if n] for shape in NUMBERS[f"{name.rpartition('.density')[0]}.shapes"]]
    density = float(name.rpartition("density")[2])
    found = densities(shapes, density, "erk")
    assert found == pytest.approx(NUMBERS[name].tolist(), rel=1e-12)
    sizes = [math.prod(shape) for shape in shapes]
    assert sum(p * n for p, n in zip(found, sizes, strict=True)) == pytest.approx(density * sum(sizes), rel=1e-12)
    assert densities(shapes, density, "uniform") == [density] * len(shapes)


def test_the_death_rate_falls_as_the_official_one():
    start, end = NUMBERS["death_rate.cfg"].tolist()
    assert [death_rate(t, 20, start, end) for t in range(21)] == pytest.approx(NUMBERS["death_rate.T20"].tolist(), rel=1e-12)


@pytest.mark.parametrize("death", ["magnitude", "Taylor_FO"])
@pytest.mark.parametrize("growth", ["gradient", "momentum", "random_unfired"])
def test_one_rewiring_is_the_official_one(death, growth):
    """Random growth and SET differ on purpose: there the official code misses its count."""
    weight, gradient, mask = (number(f"one.{name}").flatten() for name in ("weight", "grad", "mask"))
    active = mask.bool().nonzero().squeeze(1)
    count = math.ceil(float(NUMBERS["one.death_rate"]) * len(active))
    assert count == int(NUMBERS[f"one.{death}.{growth}.removed"])
    gone = dying(weight[active], gradient[active], count, "magnitude" if death == "magnitude" else "taylor")
    allowed = ~mask.bool()
    allowed[active[gone]] = True
    if growth == "random_unfired":
        order = number(f"one.{death}.random_unfired.perm").long()
        grown = at_random(allowed, count, lambda n: order[:n], ~number("one.fired").flatten().bool())
    else:
        moments = number("one.exp_avg").flatten() / (number("one.exp_avg_sq").flatten().sqrt() + 1e-8)
        grown = largest(gradient.abs() if growth == "gradient" else moments.abs(), allowed, count)
    after = mask.bool().clone()
    after[active[gone]] = False
    after[grown] = True
    assert torch.equal(after.view(12, 15), number(f"one.{death}.{growth}.mask").bool())


def test_nine_steps_with_two_rewirings_are_the_official_ones():
    """The official run scores the weight itself and keeps all of Adam's moments; the functions are the same."""
    net = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    net.load_state_dict({name: number(f"train.init.{name}") for name in net.state_dict()})
    rate, every, death, _ = NUMBERS["train.cfg"].tolist()
    masks = {name: number(f"train.mask0.{name}").bool() for name in ("0.weight", "2.weight")}
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    parameters, steps = dict(net.named_parameters()), len(NUMBERS["train.X"])

    @torch.no_grad()
    def mask_all() -> None:
        for name, mask in masks.items():
            parameters[name].mul_(mask)

    mask_all()
    for step in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(number("train.X")[step]), number("train.Y")[step].long())
        assert loss.item() == pytest.approx(float(NUMBERS["train.losses"][step]), rel=1e-12)
        loss.backward()
        optimizer.step()
        mask_all()
        if (step + 1) % every == 0:
            now = death_rate(step + 1, steps, death, 0.005)
            for name, mask in masks.items():
                flat, gradient = parameters[name].detach().flatten(), parameters[name].grad.flatten()  # type: ignore[union-attr]
                active = mask.flatten().nonzero().squeeze(1)
                count = math.ceil(now * len(active))
                gone = active[dying(flat[active], None, count, "magnitude")]
                allowed = ~mask.flatten()
                allowed[gone] = True
                after = mask.flatten().clone()
                after[gone] = False
                after[largest(gradient.abs(), allowed, count)] = True
                masks[name] = after.view_as(mask)
            mask_all()
        assert [int(mask.sum()) for mask in masks.values()] == NUMBERS["train.nnz"][step].tolist()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), number(f"train.final.{name}"), atol=1e-12, rtol=1e-12)
    assert all(torch.equal(mask, number(f"train.mask.{name}").bool()) for name, mask in masks.items())


def test_set_drops_the_values_closest_to_zero_of_both_signs():
    values = torch.tensor([0.5, -0.1, 0.2, -0.9, 0.3, -0.2, 0.1])
    assert dying(values, None, 4, "set").tolist() == [1, 2, 5, 6]
    assert dying(values.abs(), None, 3, "set").tolist() == [1, 2, 6]


def test_random_growth_takes_unfired_entries_first():
    allowed = torch.tensor([True, True, False, True, True, True])
    first = torch.tensor([False, True, True, False, True, False])
    for _ in range(5):
        grown = at_random(allowed, 3, torch.randperm, first)
        assert {1, 4} < set(grown.tolist()) and len(grown) == 3 and 2 not in grown


@cache
def planted(growth: str, seed: int) -> float:
    """The share of a planted support that is found: 120 of 2,400 entries differ from the base, and the budget is 120."""
    generator = torch.Generator().manual_seed(seed)
    base, x = nn.Linear(60, 40, bias=False), torch.randn(512, 60, generator=generator)
    support = torch.randperm(2400, generator=generator)[:120]
    delta = torch.zeros(2400).index_fill(0, support, 1.0) * (1 + torch.rand(2400, generator=generator))
    y = x @ (base.weight.detach() + delta.view(40, 60)).T
    config = DstConfig(target_modules=["0"], density=0.05, growth="random" if growth == "static" else growth, seed=seed)
    model = get_peft_model(nn.Sequential(base), config)
    tuner: nn.Module = model.base_model
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(1, 301):
        due = growth != "static" and step % 20 == 0 and step <= 225
        tuner.keep_dense(due and growth == "gradient")
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if due:
            tuner.rewire(death_rate(step, 300, 0.5, 0.005), lambda n: torch.randperm(n, generator=generator), optimizer, lambda g: g)
    indices = tuner.model[0].dst_indices["default"].long()
    assert len(indices) == 120
    return float(torch.isin(support, indices).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_support_is_found_by_gradients(seed):
    by_gradient, by_chance, static = (planted(growth, seed) for growth in ("gradient", "random", "static"))
    assert by_gradient > 0.85 and by_gradient > by_chance + 0.3 and by_chance > static and static < 0.12
