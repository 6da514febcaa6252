import math

import pytest
import torch
from losses.fakes import context_of, session_of
from torch.nn import functional as F

from hf_cl.contracts import Outputs
from hf_cl.losses import ZeroShotKL


def context(logits, zero_shot):
    def frozen(role, view=-1):
        assert (role, view) == ("pretrained", 0)
        return Outputs(features=zero_shot, logits=zero_shot, embedding=zero_shot)

    return context_of(logits, torch.zeros(len(logits), dtype=torch.long), session_of(logits.shape[1], 2), frozen=frozen)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_divergence_plus_the_zero_shot_entropy(temperature):
    torch.manual_seed(0)
    logits, zero_shot = torch.randn(2, 5, 4, dtype=torch.float64)
    p, q = F.softmax(zero_shot / temperature, -1), F.log_softmax(logits / temperature, -1)
    divergence = F.kl_div(q, p, reduction="batchmean") * temperature**2
    entropy = -(p * p.log()).sum(-1).mean() * temperature**2
    torch.testing.assert_close(ZeroShotKL(temperature)(context(logits, zero_shot)), divergence + entropy)


def test_its_gradient_vanishes_at_the_zero_shot_predictions():
    zero_shot = torch.randn(5, 4, dtype=torch.float64)
    logits = (zero_shot + 3.0).requires_grad_()
    ZeroShotKL()(context(logits, zero_shot)).backward()
    assert logits.grad.abs().max() < 1e-15


def test_columns_that_were_not_computed_take_no_part():
    logits, zero_shot = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = ZeroShotKL()(context(logits[:, 2:], zero_shot[:, 2:]))
    logits[:, :2] = zero_shot[:, :2] = -math.inf
    logits.requires_grad_()
    loss = ZeroShotKL()(context(logits, zero_shot))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert logits.grad.isfinite().all() and (logits.grad[:, :2] == 0).all()


def test_a_base_that_does_not_know_the_classes_is_refused():
    with pytest.raises(ValueError, match="gives 2 logits for 4 classes"):
        ZeroShotKL()(context(torch.randn(5, 4), torch.randn(5, 2)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        ZeroShotKL(temperature)
