"""StableMax against the official functions, and the two places where they give NaN."""

import pytest
import torch
from losses.fakes import context_of, session_of
from losses.reference_net import numbers

from hf_cl.heads import LinearHead
from hf_cl.heads.stablemax import stable_growth, stablemax
from hf_cl.losses import StableMax
from hf_cl.losses.stablemax import stablemax_cross_entropy

REFERENCE = numbers("stablemax_perpgrad/01_loss_rule_probe")


def graded(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def test_loss_probabilities_and_gradient_are_the_official_ones():
    session = session_of(4, 4)
    value, gradient = graded(lambda z: StableMax()(context_of(z, REFERENCE["y"], session)), REFERENCE["logits"])
    torch.testing.assert_close(value, REFERENCE["stablemax_loss"], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, REFERENCE["stablemax_grad"], rtol=0, atol=1e-12)
    torch.testing.assert_close(stablemax(REFERENCE["logits"]), REFERENCE["stablemax_prob"], rtol=0, atol=1e-12)


def test_a_logit_of_exactly_one_has_a_gradient():
    for dtype in (torch.float32, torch.float64):
        _, gradient = graded(lambda z: stable_growth(z).sum(), torch.tensor([1.0, 0.0, -1.0], dtype=dtype))
        assert gradient.tolist() == [1.0, 1.0, 0.25]


def test_masked_columns_are_cut_off():
    logits, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([3, 4, 5, 3, 4])
    full, full_gradient = graded(lambda z: StableMax()(context_of(z, labels, session_of(6, 3))), logits)
    small, small_gradient = graded(lambda z: stablemax_cross_entropy(z, labels - 3), logits[:, 3:])
    torch.testing.assert_close(full, small)
    torch.testing.assert_close(full_gradient[:, 3:], small_gradient)
    masked = logits.clone()
    masked[:, :3] = -torch.inf
    assert graded(lambda z: StableMax()(context_of(z, labels, session_of(6, 3))), masked)[1][:, 3:].isfinite().all()


def test_huge_logits_keep_loss_and_gradient_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    value, gradient = graded(lambda z: StableMax(dtype="float32")(context_of(z, torch.tensor([0]), session_of(3, 3))), logits)
    assert value.isfinite() and gradient.isfinite().all()
    assert (gradient != 0).all()


def test_soft_targets():
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1])
    onehot = torch.nn.functional.one_hot(labels, 4).double()
    torch.testing.assert_close(stablemax_cross_entropy(logits, onehot), stablemax_cross_entropy(logits, labels))


def test_a_head_shows_the_probabilities_it_was_trained_for():
    head = LinearHead(5, 3, probability="stablemax")
    logits = head(torch.randn(4, 5))
    shown = head.probabilities(logits)
    torch.testing.assert_close(shown.sum(-1), torch.ones(4))
    assert torch.equal(shown.argmax(-1), logits.argmax(-1))
    assert not torch.allclose(shown, logits.softmax(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StableMax(dtype="bfloat16"), "dtype must be"),
        (lambda: StableMax(classes="old"), "classes must be"),
        (lambda: LinearHead(2, 2, probability="sigmoid"), "probability must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
