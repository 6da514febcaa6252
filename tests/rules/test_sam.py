"""SAM on a quadratic, its adaptive radius, plain steps between, and what it does to curvature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rules.toy import OneProcess
from torch import nn
from torch.nn import functional as F

from hf_cl.adapters.glad import plain_lora
from hf_cl.methods import compose
from hf_cl.rules import Plain, Sam

REFERENCE = Path(__file__).parents[1] / "reference"
with np.load(REFERENCE / "dsi_pp" / "01_replay_sam_events.npz") as file:
    N = {key: torch.from_numpy(np.array(file[key])) for key in file.files if key.startswith("quad")}
RHO = float(N["quad_rho"])


def gradient(rule, steps=1):
    """Of the quadratic, at the reference's point: of each step."""
    w = nn.Parameter(N["quad_w"].clone())
    found = []
    for _ in range(steps):
        w.grad = None
        rule.compute([lambda: {"q": 0.5 * (w - N["quad_m"]) @ N["quad_H"] @ (w - N["quad_m"])}], [("w", w)], OneProcess(), nn.Identity())
        assert w.grad is not None and torch.equal(w.detach(), N["quad_w"])
        found.append(w.grad.clone())
    return found


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_quadratic_of_the_derivation():
    (found,) = gradient(Sam(RHO))
    close(found, N["quad_sam"])
    close(N["quad_w"] - 0.1 * found, N["quad_w_after"])
    (plain,) = gradient(Plain())
    close(plain, N["quad_g"])


def test_the_adaptive_radius_by_hand():
    """e = rho w^2 g / || |w| g ||."""
    w, g = N["quad_w"], N["quad_g"]
    e = RHO * w.square() * g / (w * g).norm()
    (found,) = gradient(Sam(RHO, adaptive=True))
    close(found, N["quad_H"] @ (w + e - N["quad_m"]))


def test_plain_steps_between():
    sam = N["quad_sam"], N["quad_g"], N["quad_g"]
    rule = Sam(RHO, every=3)
    for found, wanted in zip(gradient(rule, 4), (*sam, N["quad_sam"]), strict=True):
        close(found, wanted)
    resumed = Sam(RHO, every=3)
    resumed.load_state_dict(rule.state_dict())
    for found, wanted in zip(gradient(resumed, 3), (*sam[1:], N["quad_sam"]), strict=True):
        close(found, wanted)
    with pytest.raises(ValueError, match="every must be at least 1"):
        Sam(every=0)


@pytest.mark.parametrize(("settings", "recorded"), [({}, "sam"), ({"adaptive": True}, "none"), ({"every": 2}, "none")])
def test_a_config_records_what_it_has_words_for(settings, recorded):
    assert Sam().state_dict() == {}
    method = compose(rule={"type": "sam", "rho": 0.1, **settings})
    method.adapter.check_rule(method.rule)
    assert method.adapter.rule == recorded and type(plain_lora()) is type(method.adapter)


def trained(seed: int, rule) -> tuple[float, float]:
    """Trace and largest eigenvalue of the exact Hessian, once the training loss is below 0.03."""
    g = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(3, 6, generator=g, dtype=torch.float64)
    x = (centres[:, None] + torch.randn(3, 20, 6, generator=g, dtype=torch.float64)).flatten(0, 1)
    y = F.one_hot(torch.arange(3).repeat_interleave(20), 3).double()
    shapes = [(16, 6), (16,), (3, 16), (3,)]
    named = [(str(i), nn.Parameter(0.5 * torch.randn(*shape, generator=g, dtype=torch.float64))) for i, shape in enumerate(shapes)]
    parameters = [p for _, p in named]

    def loss(parameters, rows):
        a, b, c, d = parameters
        return (torch.tanh(x[rows] @ a.T + b) @ c.T + d - y[rows]).square().sum(1).mean()

    optimizer, everything = torch.optim.SGD(parameters, lr=0.05), torch.arange(60)
    for _ in range(400):
        for rows in torch.randperm(60, generator=g).split(8):
            optimizer.zero_grad()
            rule.compute([lambda rows=rows: {"l": loss(parameters, rows)}], named, OneProcess(), nn.Identity())
            optimizer.step()
        if loss(parameters, everything).item() < 0.03:
            break
    sizes = [p.numel() for p in parameters]

    def flat(v):
        return loss([part.view(shape) for part, shape in zip(v.split(sizes), shapes, strict=True)], everything)

    hessian = torch.autograd.functional.hessian(flat, torch.cat([p.detach().flatten() for p in parameters]))
    assert loss(parameters, everything).item() < 0.03
    return hessian.trace().item(), torch.linalg.eigvalsh(hessian)[-1].item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_curvature_is_lower_in_five_of_five(seed):
    (trace, top), (flat_trace, flat_top) = trained(seed, Plain()), trained(seed, Sam(0.1))
    assert flat_trace < trace and flat_top < top, (trace, flat_trace, top, flat_top)
