"""PerpGrad against the official functions, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from losses.reference_net import numbers
from torch import nn

from hf_cl.rules import RULES, PerpGrad, Sam

REFERENCE = numbers("stablemax_perpgrad/01_loss_rule_probe")


def parameter(name, value, gradient):
    p = nn.Parameter(value.clone())
    p.grad = gradient.clone()
    return name, p


@pytest.mark.parametrize("number", [0, 1, 2])
def test_projected_gradients_are_the_official_ones(number):
    named = [parameter("w", REFERENCE[f"w{number}"], REFERENCE[f"g{number}"])]
    PerpGrad(scope="^w$").transform(named)
    torch.testing.assert_close(named[0][1].grad, REFERENCE[f"g_perp{number}"], rtol=0, atol=1e-12)


def test_weights_of_zero_keep_their_gradient():
    named = [parameter("w", torch.zeros_like(REFERENCE["zero_w_g"]), REFERENCE["zero_w_g"])]
    PerpGrad(scope="all").transform(named)
    torch.testing.assert_close(named[0][1].grad, REFERENCE["zero_w_g_perp"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("SGD", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
        ("AdamW", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0)),
    ],
)
def test_trajectories_are_the_official_ones(name, optimizer):
    named = [(f"w{k}", nn.Parameter(REFERENCE[f"w{k}"].clone())) for k in range(3)]
    steps, rule = optimizer([p for _, p in named]), PerpGrad(scope="^w")
    for step in range(len(REFERENCE["traj_g0"])):
        for k, (_, p) in enumerate(named):
            p.grad = REFERENCE[f"traj_g{k}"][step].clone()
        rule.transform(named)
        steps.step()
    for k, (_, p) in enumerate(named):
        torch.testing.assert_close(p.detach(), REFERENCE[f"{name}.end{k}"], rtol=0, atol=1e-12)


def test_orthogonal_and_of_the_old_length():
    torch.manual_seed(0)
    _, p = named = parameter("head.weight", torch.randn(6, 5), torch.randn(6, 5))
    before = p.grad.norm()
    PerpGrad().transform([named])
    assert abs((p * p.grad).sum()) < 1e-6 * p.norm() * before
    torch.testing.assert_close(p.grad.norm(), before)
    grown = p.detach() - 0.1 * p.grad
    torch.testing.assert_close(grown.square().sum(), p.detach().square().sum() + 0.01 * before**2)


def test_a_parallel_gradient_is_not_blown_up():
    torch.manual_seed(0)
    w = torch.randn(500, 1)
    for scale in (1.0, -3.0):
        named = [parameter("head.weight", w, scale * w)]
        PerpGrad().transform(named)
        assert named[0][1].grad.norm() < 1e-3 * abs(scale) * w.norm()


def test_what_it_leaves_alone():
    torch.manual_seed(0)
    adapter = parameter("layer.lora_A.default.weight", torch.randn(2, 3), torch.randn(2, 3))
    bias = parameter("head.bias", torch.randn(4), torch.randn(4))
    scale = parameter("head.scale", torch.randn(1, 1), torch.randn(1, 1))
    rows = parameter("head.weight", torch.randn(4, 3), torch.randn(4, 3))
    before = [p.grad.clone() for _, p in (adapter, bias, scale, rows)]
    PerpGrad().transform([adapter, bias, scale, rows])
    after = [torch.equal(old, p.grad) for old, (_, p) in zip(before, (adapter, bias, scale, rows), strict=True)]
    assert after == [True, True, True, False]


def test_rows_and_pairs():
    torch.manual_seed(0)
    _, p = rows = parameter("head.weight", torch.randn(4, 3), torch.randn(4, 3))
    lengths = p.grad.norm(dim=1)
    PerpGrad(per="row").transform([rows])
    torch.testing.assert_close((p * p.grad).sum(1), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(p.grad.norm(dim=1), lengths)
    pair = [parameter(f"layer.lora_{k}.default.weight", torch.randn(2, 2), torch.randn(2, 2)) for k in "AB"]
    PerpGrad(scope="adapter", per="pair").transform(pair)
    products = [(p * p.grad).sum() for _, p in pair]
    torch.testing.assert_close(products[0] + products[1], torch.tensor(0.0), rtol=0, atol=1e-6)
    assert abs(products[0]) > 1e-3


def toy_accelerator():
    return Accelerator(cpu=True)


def test_another_rule_computes_and_this_one_transforms():
    named = [parameter("head.weight", torch.ones(2, 2), torch.eye(2))]
    weight = named[0][1]

    def closure():
        return {"loss": (weight * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum() ** 2}

    accelerator = toy_accelerator()
    rule = PerpGrad(inner=Sam(rho=0.1))
    weight.grad = None
    rule.compute([closure], named, accelerator, nn.Module())
    rule.transform(named)
    assert abs((weight * weight.grad).sum()) < 1e-4


def test_it_has_a_name():
    assert isinstance(RULES["perp_grad"](), PerpGrad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerpGrad(min_ratio=1), "min_ratio must be"),
        (lambda: PerpGrad(per="layer"), "per must be"),
        (
            lambda: PerpGrad(scope="q_porj").transform([parameter("layer.q_proj.weight", torch.ones(2, 2), torch.ones(2, 2))]),
            "mean 'q_proj'",
        ),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
