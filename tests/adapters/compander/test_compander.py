"""COMPANDER against numbers derived apart, and what its bound holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_cl.adapters import CompanderConfig
from hf_cl.adapters.compander.layer import compand
from hf_cl.probes import CompanderBounds

NUMBERS = np.load(Path(__file__).parents[2] / "reference" / "compander" / "compander.npz", allow_pickle=False)
exactly = pytest.approx


def number(name: str) -> Tensor:
    return torch.tensor(NUMBERS[name], dtype=torch.float64)


def close(got: Tensor, name: str) -> None:
    torch.testing.assert_close(got, number(name), atol=1e-12, rtol=1e-12)


def adapted(mode: str) -> nn.Module:
    """The reference's layer with its adapter, in float64."""
    layer = nn.Linear(9, 6, bias=False).double()
    layer.weight.data = number("residual.W")
    config = CompanderConfig(mode=mode, target_modules=["0"], r=2, lora_alpha=2 * float(NUMBERS["delta.scaling"]), learn=True)
    model = get_peft_model(nn.Sequential(layer), config).double()
    tuned = model.base_model.model[0]
    with torch.no_grad():
        tuned.compander_logs["default"].copy_(number(f"{mode}.ab").log())
        tuned.compander_start["default"].copy_(number("residual.init").log())
        if mode == "delta":
            tuned.compander_A["default"].copy_(number("delta.A"))
            tuned.compander_B["default"].copy_(number("delta.B"))
    return tuned


def test_the_function_and_its_derivatives():
    v, ab = number("psi.v").requires_grad_(), number("psi.ab")
    close(compand(v, ab.log()), "psi.w")
    close(torch.autograd.grad(compand(v, ab.log()).sum(), v)[0], "psi.dv")


@pytest.mark.parametrize("mode", ["residual", "delta"])
def test_forward_and_gradients_are_the_reference(mode):
    layer, x = adapted(mode), number("residual.x").requires_grad_()
    y = layer(x)
    close(y, f"{mode}.y")
    close(layer.effective_weight(["default"]), f"{mode}.W_eff")
    (y * number("residual.up")).sum().backward()
    close(x.grad, f"{mode}.grad_x")
    close(layer.compander_logs["default"].grad[0], f"{mode}.grad_log_a")
    close(layer.compander_logs["default"].grad[1], f"{mode}.grad_log_b")
    if mode == "delta":
        close(layer.compander_A["default"].grad, "delta.grad_A")
        close(layer.compander_B["default"].grad, "delta.grad_B")
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        close(layer.effective_weight(["default"]), "delta.step_W_eff")
        assert layer.limit("default") > 0


def test_the_limit_is_the_references():
    layer = adapted("delta")
    assert layer.limit("default") == exactly(float(NUMBERS["delta.bound"]), rel=1e-12)
    largest = layer.get_delta_weight("default").abs().max()
    assert float(largest) == exactly(float(NUMBERS["delta.max"]), rel=1e-12)


def diverging(config, seed: int) -> nn.Module:
    """100 steps of gradient descent on a 12 x 16 regression, at the learning rate 5."""
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Linear(16, 12, bias=False))
    x, y = torch.randn(32, 16), torch.randn(32, 12)
    model = get_peft_model(base, config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=5.0)
    for _ in range(100):
        optimizer.zero_grad()
        (model(x) - y).square().sum(1).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_holds_where_lora_runs_away(seed):
    lora = diverging(LoraConfig(r=4, lora_alpha=4, target_modules=["0"]), seed)
    assert not lora.base_model.model[0].get_delta_weight("default").isfinite().all()
    model = diverging(CompanderConfig(target_modules=["0"]), seed)
    layer = model.base_model.model[0]
    largest = layer.get_delta_weight("default").abs().max()
    assert 0.9 * layer.limit("default") < largest <= layer.limit("default") * (1 + 1e-6)


def test_the_bound_is_a_share_of_the_weights_deviation_in_whatever_dtype():
    torch.manual_seed(0)
    linear = nn.Linear(16, 12)
    want = 0.25 * float(linear.weight.detach().std(correction=0))
    model = get_peft_model(nn.Sequential(linear), CompanderConfig(target_modules=["0"], bound=0.25, slope=2.0))
    assert model.base_model.limits() == {"0": exactly(want, rel=1e-6)}
    start = model.base_model.model[0].compander_start["default"].exp()
    assert float(start[0] / start[1]) == exactly(2.0, rel=1e-6)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "base_model.model.0.compander_A.default",
        "base_model.model.0.compander_B.default",
    ]


def test_residual_starts_as_the_identity_and_trains_two_scalars_a_layer():
    base, x = nn.Sequential(nn.Linear(16, 12)), torch.randn(3, 16)
    plain = base(x)
    model = get_peft_model(base, CompanderConfig(target_modules=["0"], mode="residual"))
    assert torch.equal(model(x), plain)
    assert model.get_nb_trainable_parameters()[0] == 2


def test_a_saved_bound_does_not_depend_on_the_base_it_is_put_on(tmp_path):
    from peft import PeftModel

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 12))
    model = get_peft_model(base, CompanderConfig(target_modules=["0"], mode="residual", init_weights=False))
    model.save_pretrained(tmp_path)
    rounded = nn.Sequential(nn.Linear(16, 12)).bfloat16()
    rounded[0].load_state_dict(model.base_model.model[0].get_base_layer().state_dict())
    again = PeftModel.from_pretrained(rounded, tmp_path).base_model.model[0]
    ours = model.base_model.model[0]
    assert torch.equal(again.compander_start["default"], ours.compander_start["default"])
    assert torch.equal(again.compander_logs["default"], ours.compander_logs["default"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bound": 0.0}, "bound must be positive"),
        ({"slope": -1.0}, "slope must be positive"),
        ({"r": 0}, "r must be at least 1"),
        ({"mode": "scratch"}, "mode must be delta or residual"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CompanderConfig(**settings)


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_weight_without_a_deviation_is_refused_by_name(value):
    base = nn.Sequential(nn.Linear(4, 4))
    nn.init.constant_(base[0].weight, value)
    with pytest.raises(ValueError, match="COMPANDER: the weight of '0' has the standard deviation"):
        get_peft_model(base, CompanderConfig(target_modules=["0"]))


def test_the_probe_tells_the_limits_of_each_session():
    class Trained:
        tuner = get_peft_model(nn.Sequential(nn.Linear(4, 4)), CompanderConfig(target_modules=["0"])).base_model

    class Second:
        id = 1

    probe, again = CompanderBounds(), CompanderBounds()
    probe.end_session(Trained, Second)  # type: ignore[arg-type]
    again.load_state_dict(probe.state_dict())
    assert again.report() == probe.report() == {"bounds": [Trained.tuner.limits()]}
    Trained.tuner = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="needs a COMPANDER adapter"):
        probe.end_session(Trained, Second)  # type: ignore[arg-type]
