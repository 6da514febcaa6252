"""The five terms of "A Closer Look at Rehearsal-Free Continual Learning" against numbers of the first author's code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from losses.fakes import session_of
from losses.reference_net import Net, NetTrainer, context, numbers
from torch import nn

from hf_cl.losses import EWC, BinaryCrossEntropy, FeatureDistillation, L2Anchor, PredictionDistillation
from hf_cl.losses.l2_anchor import delta_distance

TERMS, DELTA = numbers("rehearsal_free/01_terms"), numbers("rehearsal_free/02_delta_space_and_quadratics")
OLD, NEW = int(TERMS["old"]), int(TERMS["new"])
ALL = OLD + NEW


def equals(case: str, net: Net, loss: torch.Tensor) -> None:
    """Loss and the gradient of every parameter that the case names."""
    torch.testing.assert_close(loss.detach(), TERMS[f"{case}.loss"], rtol=0, atol=1e-12)
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
    for (name, p), gradient in zip(net.named_parameters(), found, strict=True):
        key = f"{case}.grad.{name}"
        expected = TERMS.get(key, torch.zeros_like(p))
        torch.testing.assert_close(torch.zeros_like(p) if gradient is None else gradient, expected, rtol=0, atol=1e-12, msg=key)


@pytest.fixture
def net():
    return Net(TERMS, "net")


@pytest.fixture
def session1(net):
    return context(net, TERMS["x"], TERMS["y_session1"], ALL, NEW, previous=Net(TERMS, "prev"))


def test_binary_cross_entropy(net, session1):
    session0 = context(net, TERMS["x"], TERMS["y_session0"], OLD, OLD)
    equals("bce_session0", net, BinaryCrossEntropy()(session0))
    equals("bce_session1_nokd", net, BinaryCrossEntropy(distill=False)(session1))
    equals("bce_new_only", net, BinaryCrossEntropy(classes="new")(session1))
    equals("bce_predkd", net, BinaryCrossEntropy()(session1))
    equals("head_rev.bce_predkd_scale1", net, BinaryCrossEntropy(scale=1.0)(session1))
    equals("bce_balanced_session0", net, BinaryCrossEntropy(balanced=True)(session0))
    equals("bce_balanced_predkd", net, BinaryCrossEntropy(balanced=True)(session1))


def test_distillation(net, session1):
    equals("predkd_softmax_T2", net, PredictionDistillation()(session1))
    both = BinaryCrossEntropy()(session1) + float(TERMS["feat_mu"]) * FeatureDistillation()(session1)
    equals("bce_predkd_featkd", net, both)


def anchored(term, net: Net):
    """The term in session 1, with the reference's anchor taken at the end of session 0."""
    start = Net(TERMS, "anchor")
    term.begin_session(NetTrainer(start), session_of(OLD, OLD))
    term.end_session(NetTrainer(start, batches_of_loader(0)), session_of(OLD, OLD))
    term.begin_session(NetTrainer(net), session_of(ALL, NEW))
    return term


def batches_of_loader(session: int):
    return [(TERMS[f"fisher_loader{session}.x{k}"], TERMS[f"fisher_loader{session}.y{k}"]) for k in range(3)]


def test_l2_in_parameters(net, session1):
    loss = BinaryCrossEntropy()(session1) + float(TERMS["eps"]) * anchored(L2Anchor(space="params"), net)(session1)
    equals("bce_predkd_l2", net, loss)


def test_the_fisher_of_two_sessions_and_ewc(net, session1):
    term = EWC()
    trainer0 = NetTrainer(HeadOf(net, OLD), batches_of_loader(0))
    term.begin_session(trainer0, session_of(OLD, OLD))
    term.end_session(trainer0, session_of(OLD, OLD))
    for name in ("feat.0.weight", "feat.0.bias", "feat.2.weight", "feat.2.bias"):
        torch.testing.assert_close(term._fisher[name], TERMS[f"fisher0.{name}"], rtol=0, atol=1e-12)
    trainer1 = NetTrainer(net, batches_of_loader(1))
    term.begin_session(trainer1, session_of(ALL, NEW))
    term.end_session(trainer1, session_of(ALL, NEW))
    for name in ("feat.0.weight", "feat.0.bias", "feat.2.weight", "feat.2.bias"):
        torch.testing.assert_close(term._fisher[name], TERMS[f"fisher01.{name}"], rtol=0, atol=1e-12)
    term._anchors = {name: TERMS[f"anchor.{name}"] for name in term._anchors}
    mu = float(TERMS["mu"])
    equals("bce_predkd_ewc_half_mu", net, BinaryCrossEntropy()(session1) + mu * term(session1))
    full = EWC(half=False)
    full.begin_session(trainer1, session_of(ALL, NEW))
    full.load_state_dict(term.state_dict())
    equals("head_rev.bce1_predkd_ewc_mu", net, BinaryCrossEntropy(scale=1.0)(session1) + mu * full(session1))


class HeadOf(nn.Module):
    """A network whose head has the first columns alone, as it was in session 0."""

    def __init__(self, net: Net, columns: int) -> None:
        super().__init__()
        self.feat, self.last, self.columns, self._net = net.feat, net.last, columns, [net]

    def outputs(self, x):
        full = self._net[0].outputs(x)
        return type(full)(full.features, full.logits[:, : self.columns], full.embedding)


def test_the_fisher_of_single_images_is_the_mean_of_their_squared_gradients(net):
    batches = [(TERMS["x"], TERMS["y_session1"])]
    term = EWC(fisher="per_sample")
    trainer = NetTrainer(net, batches)
    term.begin_session(trainer, session_of(ALL, NEW))
    term.end_session(trainer, session_of(ALL, NEW))
    total = torch.zeros_like(net.feat[0].weight)
    for x, y in zip(TERMS["x"], TERMS["y_session1"], strict=True):
        single = BinaryCrossEntropy(classes="new")(context(net, x[None], y[None], ALL, NEW))
        total += torch.autograd.grad(single, net.feat[0].weight)[0].square()
    torch.testing.assert_close(term._fisher["feat.0.weight"], total / len(TERMS["x"]), rtol=0, atol=1e-14)


def test_a_fisher_leaves_mode_and_flags_as_they_were(net):
    net.train()
    net.feat[0].weight.requires_grad_(False)
    term, trainer = EWC(), NetTrainer(net, batches_of_loader(1))
    term.begin_session(trainer, session_of(ALL, NEW))
    term.end_session(trainer, session_of(ALL, NEW))
    assert net.training
    assert [p.requires_grad for p in net.feat.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in net.parameters())


# The space of deltas
def test_the_distance_of_deltas_needs_no_dense_matrix():
    a, b = DELTA["A"].clone().requires_grad_(), DELTA["B"].clone().requires_grad_()
    value = delta_distance(a, b, DELTA["A_anchor"], DELTA["B_anchor"]) * DELTA["scaling"] ** 2
    torch.testing.assert_close(value.detach(), DELTA["delta_l2"], rtol=1e-12, atol=0)
    gradient_a, gradient_b = torch.autograd.grad(value, (a, b))
    torch.testing.assert_close(gradient_a, DELTA["delta_l2_grad_A"], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient_b, DELTA["delta_l2_grad_B"], rtol=0, atol=1e-10)
    fresh = delta_distance(DELTA["A"], DELTA["B"], DELTA["A"], torch.zeros_like(DELTA["B"])) * DELTA["scaling"] ** 2
    torch.testing.assert_close(fresh, DELTA["delta_l2_pretrained"], rtol=1e-12, atol=0)


def test_the_distance_of_deltas_keeps_its_digits_near_the_anchor_in_float32():
    near = [DELTA[name].float() for name in ("A_near", "B_near", "A_anchor32", "B_anchor32")]
    value = delta_distance(*near) * DELTA["scaling"].float() ** 2
    torch.testing.assert_close(value.double(), DELTA["delta_l2_near"], rtol=1e-4, atol=0)


def test_the_distance_of_deltas_is_that_of_the_function():
    """(B R)(R^-1 A) is the same map; the distance of the factors is another one."""
    turned = delta_distance(DELTA["A_gauge"], DELTA["B_gauge"], DELTA["A_anchor"], DELTA["B_anchor"]) * DELTA["scaling"] ** 2
    torch.testing.assert_close(turned, DELTA["delta_l2"], rtol=1e-10, atol=0)
    factors = (DELTA["A_gauge"] - DELTA["A_anchor"]).square().sum() + (DELTA["B_gauge"] - DELTA["B_anchor"]).square().sum()
    assert abs(factors - DELTA["params_l2"]) > 1


class Layer(nn.Module):
    """The names of a LoRA layer."""

    def __init__(self):
        super().__init__()
        self.scaling = {"default": float(DELTA["scaling"])}
        self.lora_A = nn.ModuleDict({"default": Linear(DELTA["A_anchor"])})
        self.lora_B = nn.ModuleDict({"default": Linear(DELTA["B_anchor"])})


class Linear(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def lora_trainer():
    model = nn.ModuleDict({"q_proj": Layer()})
    trainer = NetTrainer(model)
    trainer.tuner = SimpleNamespace(model=model)
    return trainer, model["q_proj"]


@pytest.mark.parametrize(("space", "expected"), [("delta", "delta_l2"), ("params", "params_l2")])
def test_a_lora_pair_is_anchored_in_either_space(space, expected):
    trainer, layer = lora_trainer()
    term = L2Anchor(space=space)
    term.begin_session(trainer, session_of(2, 2))
    layer.lora_A["default"].weight.data.copy_(DELTA["A"])
    layer.lora_B["default"].weight.data.copy_(DELTA["B"])
    value = term(context(Net(TERMS, "net"), TERMS["x"], TERMS["y_session0"], OLD, OLD))
    torch.testing.assert_close(value.detach(), DELTA[expected], rtol=1e-10, atol=0)


def test_the_anchor_moves_or_stays():
    for anchor, moved in (("previous", True), ("pretrained", False)):
        trainer, layer = lora_trainer()
        term = L2Anchor(anchor=anchor)
        term.begin_session(trainer, session_of(2, 2))
        layer.lora_A["default"].weight.data.add_(1.0)
        term.end_session(trainer, session_of(2, 2))
        assert (term(None).item() == 0) == moved


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", ["l2", "ewc"])
def test_two_quadratics_end_at_the_closed_form(kind, number):
    """Where the second task and the term are in balance: the stored solution, which has a gradient of zero under our term."""
    weight, h1, h2 = DELTA["quad_lambda"][number], DELTA["quad_H1"], DELTA["quad_H2"]
    point = nn.Parameter(DELTA[f"quad_{kind}_solution"][number].clone())
    term = L2Anchor(space="params") if kind == "l2" else EWC()
    term._anchors, term._parameters = {"w": DELTA["quad_w1"]}, [("w", point)]
    if isinstance(term, EWC):
        term._fisher = {"w": h1.diag()}
    difference = point - DELTA["quad_w2"]
    (gradient,) = torch.autograd.grad(0.5 * difference @ h2 @ difference + weight * term(None), point)
    torch.testing.assert_close(gradient / (1 + weight), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-8)


# What is refused
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2Anchor(weight=-1), "weight must not be negative"),
        (lambda: L2Anchor(anchor="last"), "anchor must be"),
        (lambda: L2Anchor(space="weights"), "space must be"),
        (lambda: EWC(weight=-1), "weight must not be negative"),
        (lambda: EWC(fisher="true"), "fisher must be"),
        (lambda: EWC(fisher_batches=0), "fisher_batches must be at least 1"),
        (lambda: EWC(decay=2), "decay must be between"),
        (lambda: PredictionDistillation(temperature=0), "temperature must be positive"),
        (lambda: PredictionDistillation(kind="hard"), "kind must be"),
        (lambda: FeatureDistillation(reduction="max"), "reduction must be"),
        (lambda: BinaryCrossEntropy(scale=0), "scale must be positive"),
        (lambda: BinaryCrossEntropy(classes="old"), "classes must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_tensor_of_another_shape_is_named(net):
    term = L2Anchor(space="params")
    term.load_state_dict({"anchors": {name: torch.zeros(1) for name, _ in net.named_parameters()}})
    with pytest.raises(ValueError, match=r"feat.0.weight has shape \[9, 7\] and its anchor has shape \[1\]"):
        term.begin_session(NetTrainer(net), session_of(ALL, NEW))


def test_a_scope_that_matches_nothing_is_named(net):
    with pytest.raises(ValueError, match="scope 'qkv' matches none"):
        EWC(scope="qkv").begin_session(NetTrainer(net), session_of(ALL, NEW))


def test_a_fisher_that_is_not_finite_is_named(net):
    trainer = NetTrainer(net, [(TERMS["x"] * torch.inf, TERMS["y_session1"])])
    term = EWC()
    term.begin_session(trainer, session_of(ALL, NEW))
    with pytest.raises(ValueError, match="is not finite"):
        term.end_session(trainer, session_of(ALL, NEW))
