"""Rules under fp16's loss scaling. `torch.amp.GradScaler` works on the CPU, so no GPU is needed."""

import pytest
import torch
from rules.toy import OneProcess, assert_same, gradients, net, run
from torch import nn

from hf_cl.rules import Glad, GradientNorm, Plain, ProGrad, Sagm, Sam

EVERY = {
    "none": Plain(),
    "glad": Glad(0.05, 0.3),
    "glad_adaptive": Glad(0.05, adaptive=True),
    "glad_per_tensor": Glad(0.05, per_tensor=True),
    "sam": Sam(0.05),
    "sagm": Sagm(0.05, 1e-2),
    "gradient_norm": GradientNorm(0.05, 0.02),
    "prograd": ProGrad("reference"),
}
every_rule = pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)


def scaler(scale):
    return torch.amp.GradScaler("cpu", init_scale=scale)


@every_rule
@pytest.mark.parametrize("scale", [2.0**16, 2.0**-4])
def test_the_scale_changes_nothing_but_the_size_of_the_gradient(rule, scale):
    """A power of two, so that scaling is exact; sagm's alpha is the one place where the true gradient's size counts."""
    accelerator = OneProcess(scaler(scale))
    step = run(rule, accelerator=accelerator)
    expected = run(rule).gradients
    unscaled = {name: None if g is None else g / scale for name, g in step.gradients.items()}
    assert_same(unscaled, expected, 1e-12)
    assert accelerator.scaler.get_scale() == scale


@every_rule
def test_an_overflow_skips_the_step_and_lowers_the_scale(rule):
    model = net(dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    accelerator = OneProcess(scaler(2.0**127))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run(rule, model, accelerator=accelerator, factor=256.0)  # losses are finite, their scaled gradients are not
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    accelerator.scaler.step(optimizer)
    accelerator.scaler.update()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert accelerator.scaler.get_scale() == 2.0**126


@pytest.mark.parametrize("where", ["first", "second"])
def test_prograd_never_hides_an_overflow_of_its_reference(where):
    p = nn.Parameter(torch.ones(2))
    size = {"main": 1.0, "reference": 1.0}
    size["main" if where == "first" else "reference"] = float("inf")
    accelerator = OneProcess(scaler(1.0))
    ProGrad("reference").compute(
        [lambda: {name: p.sum() * factor for name, factor in size.items()}], [("p", p)], accelerator, nn.Identity()
    )
    assert not p.grad.isfinite().all()


@pytest.mark.parametrize("rule", [Glad(0.05, 0.0), Glad(), Sam()], ids=["lam 0", "glad", "sam"])
def test_an_overflow_of_the_first_pass_alone_is_not_hidden_by_the_second(rule):
    """SAM's gradient is that of the second pass only; the scaler must see the first one's overflow all the same."""
    p = nn.Parameter(torch.ones(2))
    passes = []

    def losses():
        passes.append(len(passes))
        return {"loss": (p.detach() * 0 + p).sum() * (float("inf") if len(passes) == 1 else 1.0)}

    rule.compute([losses], [("p", p)], OneProcess(scaler(1.0)), nn.Identity())
    assert len(passes) == 2 and not p.grad.isfinite().all()
    assert torch.equal(p, torch.ones(2))


def test_gradients_are_scaled_exactly_once():
    model = net()
    run(Glad(), model, accelerator=OneProcess(scaler(4.0)))
    once = gradients(model)["first.weight"]
    torch.testing.assert_close(once, 4.0 * run(Glad()).gradients["first.weight"], rtol=1e-12, atol=1e-12)
