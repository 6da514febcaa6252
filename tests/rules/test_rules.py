"""What every gradient rule must do."""

import copy
import inspect

import pytest
import torch
from rules.toy import Net, OneProcess, assert_same, closures_of, data, net, run
from torch import nn
from torch.nn import functional as F

from hf_cl.rules import RULES, Glad, GradientNorm, Plain, ProGrad, Sagm, Sam

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
PERTURBED = {name: rule for name, rule in EVERY.items() if name not in ("none", "prograd")}
every_rule = pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)
perturbed = pytest.mark.parametrize("rule", PERTURBED.values(), ids=PERTURBED)
two_passes = pytest.mark.parametrize(
    "rule", [rule for name, rule in EVERY.items() if name != "none"], ids=[n for n in EVERY if n != "none"]
)


@every_rule
def test_parameters_come_back_to_the_bit_and_unused_ones_are_untouched(rule):
    model = net(dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    step = run(rule, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step.gradients.pop("unused") is None
    assert all(g is not None and g.abs().sum() > 0 for g in step.gradients.values())


@every_rule
def test_losses_are_those_of_the_first_pass_detached_and_summed_over_micro_batches(rule):
    model = net()
    x, y = data()
    expected = {name: value.detach() for name, value in closures_of(model, x, y)[0]().items()}
    for micro_batches in (1, 4):
        losses = run(rule, model, micro_batches=micro_batches).losses
        assert losses.keys() == expected.keys()
        assert not any(value.requires_grad for value in losses.values())
        for name, value in losses.items():
            torch.testing.assert_close(value, expected[name])


@every_rule
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(rule, micro_batches):
    whole, parts = run(rule), run(rule, micro_batches=micro_batches)
    assert_same(whole.gradients, parts.gradients, 1e-14)


@every_rule
def test_every_backward_but_the_last_of_a_pass_is_unsynchronised(rule):
    step = run(rule, micro_batches=4)
    assert step.accelerator.unsynced == (3 if isinstance(rule, Plain) else 6)


@two_passes
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_both_passes_see_the_same_dropout_and_the_generator_ends_where_one_pass_leaves_it(rule, micro_batches):
    seen, states = [], []
    for each in (Plain(), rule):
        model = net(dropout=0.5)
        model.dropout.register_forward_hook(lambda module, args, output: seen.append(output != 0))
        torch.manual_seed(7)
        run(each, model, micro_batches=micro_batches)
        states.append(torch.get_rng_state())
    plain, first, second = seen[:micro_batches], seen[micro_batches : 2 * micro_batches], seen[2 * micro_batches :]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, first, second, strict=True))
    assert torch.equal(*states)


@two_passes
def test_when_the_second_pass_raises_parameters_and_generator_are_as_after_one_pass(rule):
    model = net(dropout=0.5)
    before = copy.deepcopy(model.state_dict())
    (losses,) = closures_of(model, *data())
    calls = []

    def failing():
        calls.append(torch.rand(()))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return losses()

    torch.manual_seed(7)
    torch.rand(()), losses()
    state = torch.get_rng_state()
    torch.manual_seed(7)
    with pytest.raises(RuntimeError, match="out of memory"):
        rule.compute([failing], list(model.named_parameters()), OneProcess(), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@every_rule
def test_a_gradient_that_was_there_stays_added_and_changes_nothing_else(rule):
    alone = run(rule).gradients
    model = net()
    model.first.weight.grad = torch.full_like(model.first.weight, 3.0)
    model.unused.grad = torch.full_like(model.unused, 5.0)
    both = run(rule, model).gradients
    alone["first.weight"] += 3.0
    alone["unused"] = torch.full((4,), 5.0, dtype=torch.float64)
    assert_same(both, alone, 1e-15)


@every_rule
def test_gradients_stay_in_the_tensors_that_autograd_made(rule):
    """DDP may keep p.grad as a view of its bucket: a rule writes into it and never replaces it after the last backward."""
    model = net()
    made = {}
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: made.__setitem__(name, p.grad))
    run(rule, model)
    assert all(p.grad is made.get(name) for name, p in model.named_parameters())


@every_rule
def test_frozen_parameters_are_neither_moved_nor_given_gradients(rule):
    model = net()
    model.first.requires_grad_(False)
    gradients = run(rule, model).gradients
    assert gradients["first.weight"] is None and gradients["first.bias"] is None
    assert gradients["second.weight"] is not None


@perturbed
def test_a_zero_gradient_stays_zero(rule):
    p = nn.Parameter(torch.ones(3))
    rule.compute([lambda: {"zero": (p * 0.0).sum()}], [("p", p)], OneProcess(), nn.Identity())
    assert torch.equal(p.grad, torch.zeros(3)) and torch.equal(p, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@perturbed
def test_other_dtypes(rule, dtype):
    step = run(rule, net(dtype=dtype))
    assert all(g.dtype == dtype and g.isfinite().all() for name, g in step.gradients.items() if name != "unused")


def test_the_norm_of_half_precision_gradients_is_accumulated_in_float32():
    p = nn.Parameter(torch.zeros(4096, dtype=torch.bfloat16))
    direction = torch.ones(4096, dtype=torch.bfloat16)
    seen = []

    def losses():
        seen.append(p.detach().clone())
        return {"linear": (p * direction).sum()}

    Sam(0.64).compute([losses], [("p", p)], OneProcess(), nn.Identity())
    torch.testing.assert_close(seen[1].float(), torch.full((4096,), 0.01), rtol=1e-2, atol=0)


def assert_equal_rules(a, b, tolerance=1e-15):
    assert_same(run(a).gradients, run(b).gradients, tolerance)


def test_relations_between_the_rules():
    assert_equal_rules(Glad(0.1, 0.0), Plain(), 0.0)
    assert_equal_rules(Glad(0.1, 1.0), Sam(0.1), 0.0)
    assert_equal_rules(Sagm(0.1, alpha=0.0), Glad(0.1, 0.5), 0.0)
    assert_equal_rules(GradientNorm(0.1, 0.04), Glad(0.1, 0.4))


def test_sam_is_the_gradient_at_the_perturbed_point():
    model = net()
    g = run(Plain(), copy.deepcopy(model)).gradients
    g.pop("unused")
    norm = sum((value**2).sum() for value in g.values()).sqrt()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            if name in g:
                p.add_(0.05 * g[name] / norm)
    assert_same(run(Sam(0.05), model).gradients, run(Plain(), moved).gradients, 1e-11)  # the norm is taken plus 1e-12


@pytest.mark.parametrize("a", [0.4, 1.6])
def test_gradient_norm_is_the_gradient_of_the_penalised_loss_to_first_order(a):
    """mu = a rho; the error of L + mu |grad L| shrinks with rho."""
    model = net()
    x, y = data()
    parameters = [p for name, p in model.named_parameters() if name != "unused"]

    def penalised(mu):
        losses = closures_of(model, x, y)[0]()
        loss = losses["cross_entropy"] + losses["reference"]
        g = torch.autograd.grad(loss, parameters, create_graph=True)
        norm = torch.stack([value.norm() for value in g]).norm()
        return torch.autograd.grad(loss + mu * norm, parameters)

    for rho in (1e-2, 1e-4):
        step = run(GradientNorm(rho, a * rho), net())
        got = [value for name, value in step.gradients.items() if name != "unused"]
        error = max((x - y).abs().max() for x, y in zip(got, penalised(a * rho), strict=True))
        assert error < 30 * rho**2


def test_prograd_keeps_its_reference_out_of_the_sum():
    x, y = data()

    def losses():
        logits = model(x)
        return {"cross_entropy": F.cross_entropy(logits, y), "reference": F.cross_entropy(logits, y)}  # never in conflict

    model = net()
    ProGrad("reference").compute([losses], list(model.named_parameters()), OneProcess(), model)
    plain = net()
    Plain().compute([lambda: {"ce": F.cross_entropy(plain(x), y)}], list(plain.named_parameters()), OneProcess(), plain)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)


def step_of_prograd(rule, g, r):
    """ProGrad on tensors whose gradient is `g` and reference gradient `r` (None: not reached by the reference)."""
    p = [nn.Parameter(torch.zeros_like(value)) for value in g]

    def losses():
        reference = sum((a * b).sum() for a, b in zip(p, r, strict=True) if b is not None)
        return {"main": sum((a * b).sum() for a, b in zip(p, g, strict=True)), "reference": reference}

    rule.compute([losses], [(str(i), q) for i, q in enumerate(p)], OneProcess(), nn.Identity())
    return [q.grad for q in p]


def test_prograd_removes_the_conflicting_part_tensor_by_tensor():
    g = [torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    r = [torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]), None]
    full = step_of_prograd(ProGrad("reference"), g, r)
    assert torch.equal(full[0], torch.tensor([0.0, 4.0]))
    assert all(torch.equal(a, b) for a, b in zip(full[1:], g[1:], strict=True))
    half = step_of_prograd(ProGrad("reference", lam=0.5), g, r)
    assert torch.equal(half[0], torch.tensor([1.5, 4.0]))


def test_prograd_names_a_missing_reference_and_refuses_to_be_alone():
    with pytest.raises(ValueError, match=r"no loss 'referense'; its losses are cross_entropy, reference. Did you mean 'reference'\?"):
        run(ProGrad("referense"))
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="'kl' is the phase's only loss"):
        ProGrad("kl").compute([lambda: {"kl": p.sum()}], [("p", p)], OneProcess(), nn.Identity())


@two_passes
@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_training_is_refused(rule, kind):
    with pytest.raises(ValueError, match=rf"{type(rule).__name__} needs whole parameters.*{kind} shards them"):
        run(rule, accelerator=OneProcess(distributed_type=kind))


def test_plain_runs_sharded_too():
    assert run(Plain(), accelerator=OneProcess(distributed_type="FSDP")).losses


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Glad(rho=0.0), "Glad: rho must be positive"),
        (lambda: Sam(rho=-1.0), "Sam: rho must be positive"),
        (lambda: Sagm(rho=float("nan")), "Sagm: rho must be positive"),
        (lambda: GradientNorm(rho=0.0, mu=0.1), "GradientNorm: rho must be positive"),
        (lambda: GradientNorm(rho=0.1, mu=-0.1), "GradientNorm: mu must not be negative"),
        (lambda: Glad(lam=1.5), r"Glad: lam must lie in \[0, 1\], got 1.5"),
        (lambda: Sagm(alpha=-1.0), "Sagm: alpha must not be negative"),
        (lambda: ProGrad(lam=-1.0), "ProGrad: lam must not be negative"),
    ],
)
def test_settings_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_gradient_norm_needs_mu():
    with pytest.raises(TypeError, match="mu"):
        GradientNorm(rho=0.05)  # pyright: ignore[reportCallIssue]


def test_names_and_defaults():
    assert list(RULES) == ["none", "glad", "sam", "sagm", "gradient_norm", "prograd", "gradient_dropout", "perp_grad"]
    defaults = {name: {k: p.default for k, p in inspect.signature(rule).parameters.items()} for name, rule in RULES.items()}
    assert defaults["glad"] == {"rho": 0.05, "lam": 0.5, "adaptive": False, "per_tensor": False}
    assert defaults["sagm"] == {"rho": 0.05, "alpha": 1e-3}
    assert defaults["sam"] == {"rho": 0.05, "adaptive": False, "every": 1}
    assert defaults["prograd"] == {"reference": "zero_shot_kl", "lam": 1.0}


@every_rule
def test_nothing_waits_for_the_device(rule, monkeypatch):
    """`item`, `bool` and the like are what makes the host wait; no rule may call them on a tensor."""
    model = Net().double()
    x, y = data()
    closures = closures_of(model, x, y, 2)

    def refuse(*args, **kwargs):
        raise AssertionError("the host waits for the device here")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    rule.compute(closures, list(model.named_parameters()), OneProcess(), model)
