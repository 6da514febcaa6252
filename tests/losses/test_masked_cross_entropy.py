import math

import pytest
import torch
from losses.fakes import context_of, session_of
from torch.nn import functional as F

from hf_cl.losses import MaskedCrossEntropy


def graded(loss, logits):
    value = loss(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


@pytest.mark.parametrize(("seen", "new"), [(3, 3), (6, 3), (7, 1)])
def test_new_classes_equal_a_mask_of_minus_infinity(seen, new):
    torch.manual_seed(0)
    logits = torch.randn(16, seen, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(seen - new, seen, (16,))
    session = session_of(seen, new)

    def masked(z):
        z = z.clone()
        z[:, : seen - new] = -math.inf
        return F.cross_entropy(z, labels)

    value, gradient = graded(lambda z: MaskedCrossEntropy()(context_of(z, labels, session)), logits)
    expected, expected_gradient = graded(masked, logits)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)
    assert (gradient[:, : seen - new] == 0).all()


def test_seen_classes_are_plain_cross_entropy():
    logits, labels = torch.randn(8, 6), torch.randint(0, 6, (8,))
    assert torch.equal(MaskedCrossEntropy("seen")(context_of(logits, labels, session_of(6, 3))), F.cross_entropy(logits, labels))


def test_columns_that_were_not_computed_take_no_part():
    logits = torch.randn(8, 6)
    labels = torch.randint(3, 6, (8,))
    expected = MaskedCrossEntropy()(context_of(logits, labels, session_of(6, 3)))
    logits[:, :3] = -math.inf
    assert torch.equal(MaskedCrossEntropy()(context_of(logits, labels, session_of(6, 3))), expected)


@pytest.mark.parametrize("label", [-1, 0, 7, 106, 110])
def test_a_label_of_another_session_is_never_silently_ignored(label):
    """PyTorch skips the label -100, and 7 becomes that after the shift by 107."""
    with pytest.raises(IndexError):
        MaskedCrossEntropy()(context_of(torch.randn(1, 110), torch.tensor([label]), session_of(110, 3)))


def test_weight_and_name():
    term = MaskedCrossEntropy(weight=lambda epoch: 0.5 * epoch)
    assert term.name == "cross_entropy" and term.weight_at(3) == 1.5
    assert MaskedCrossEntropy().weight_at(0) == 1.0


def test_unknown_choice_of_classes():
    with pytest.raises(ValueError, match="'new' or 'seen', got 'all'"):
        MaskedCrossEntropy("all")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("classes", "new", "warned"), [("new", 1, True), ("new", 2, False), ("seen", 1, False)])
def test_one_class_has_nothing_to_be_compared_with(caplog, classes, new, warned):
    with caplog.at_level("WARNING"):
        MaskedCrossEntropy(classes).begin_session(None, session_of(6, new))
    assert ("trains nothing" in caplog.text) is warned
