import pytest
import torch
from losses.fakes import FakeTrainer, context_of, session_of
from losses.reference_net import numbers
from torch import nn

from hf_cl.heads import CosineHead, LinearHead
from hf_cl.losses import SlopeCap
from hf_cl.losses.slope_cap import margin_hinge, pair_hinge, pair_norms

REFERENCE = numbers("slope_cap/slope")
ALPHA = float(REFERENCE["alpha"])


def head_with(rows) -> LinearHead:
    head = LinearHead(rows.shape[1], len(rows), bias=False).double()
    head.weight.data.copy_(rows)
    return head


def test_the_hinge_on_rows():
    rows = REFERENCE["weight"].clone().requires_grad_()
    value = pair_hinge(rows, ALPHA)
    torch.testing.assert_close(value.detach(), REFERENCE["loss"], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value, rows)[0], REFERENCE["grad"], rtol=0, atol=1e-12)
    torch.testing.assert_close(pair_norms(rows.detach()).mean(), REFERENCE["start_alpha"], rtol=0, atol=1e-12)


def test_the_hinge_on_a_margin():
    a, v = REFERENCE["A"].clone().requires_grad_(), REFERENCE["V"].clone().requires_grad_()
    features = REFERENCE["features"].clone().requires_grad_()
    logits = (features @ a.T).tanh() @ v.T
    value = margin_hinge(logits, REFERENCE["labels"], features, ALPHA)
    torch.testing.assert_close(value.detach(), REFERENCE["general_loss"], rtol=0, atol=1e-12)
    gradient_a, gradient_v = torch.autograd.grad(value, (a, v))
    torch.testing.assert_close(gradient_a, REFERENCE["grad_A"], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient_v, REFERENCE["grad_V"], rtol=0, atol=1e-12)


def test_alpha_is_the_mean_slope_of_session_0_and_old_rows_get_no_gradient():
    term, head = SlopeCap(), head_with(REFERENCE["weight"])
    trainer = FakeTrainer(head, None, session_of(4, 4))
    term.begin_session(trainer, session_of(4, 4))
    assert term(context_of(torch.randn(2, 4), torch.tensor([0, 1]), session_of(4, 4))) == 0
    term.end_session(trainer, session_of(4, 4))
    assert term.state_dict()["cap"] == pytest.approx(float(REFERENCE["start_alpha"]), abs=1e-12)
    head.grow(["e", "f"])
    head.weight.data[4:] *= 100
    term.begin_session(trainer, session_of(6, 2))
    value = term(context_of(torch.randn(2, 6), torch.tensor([4, 5]), session_of(6, 2)))
    (gradient,) = torch.autograd.grad(value, head.weight)
    assert (gradient[:4] == 0).all() and (gradient[4:] != 0).any()


def test_below_the_cap_the_gradient_is_exactly_zero():
    rows = REFERENCE["weight"].clone().requires_grad_()
    assert (torch.autograd.grad(pair_hinge(rows, 1e9), rows)[0] == 0).all()


def test_one_class_has_no_pair():
    rows = torch.randn(1, 3, requires_grad=True)
    assert pair_hinge(rows, 1.0) == 0


@pytest.mark.parametrize(
    ("head", "message"), [(CosineHead(3, 2), "has one slope by construction"), (nn.Linear(3, 2), "needs a linear head")]
)
def test_other_heads_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        SlopeCap().begin_session(FakeTrainer(head, None, session_of(2, 2)), session_of(2, 2))


def test_a_session_0_of_one_class_has_no_slope_to_begin_with():
    trainer = FakeTrainer(LinearHead(3, 1), None, session_of(1, 1))
    with pytest.raises(ValueError, match="session 0 has one class, so no pair that alpha could come from"):
        SlopeCap().begin_session(trainer, session_of(1, 1))
    SlopeCap(alpha=1.0).begin_session(trainer, session_of(1, 1))


def test_a_run_without_session_0_is_refused():
    term = SlopeCap()
    term.begin_session(FakeTrainer(LinearHead(3, 4), None, session_of(4, 2)), session_of(4, 2))
    with pytest.raises(ValueError, match="alpha comes from session 0"):
        term(context_of(torch.randn(2, 4), torch.tensor([2, 3]), session_of(4, 2)))


@pytest.mark.parametrize(
    ("settings", "message"), [({"alpha": 0}, "alpha must be"), ({"weight": -1}, "weight must not"), ({"of": "columns"}, "of must be")]
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SlopeCap(**settings)
