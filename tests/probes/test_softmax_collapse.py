from types import SimpleNamespace

import pytest
import torch
from losses.fakes import context_of, session_of
from losses.reference_net import numbers

from hf_cl.heads import LinearHead
from hf_cl.probes import SoftmaxCollapse
from hf_cl.probes.softmax_collapse import collapsed

REFERENCE = numbers("stablemax_perpgrad/01_loss_rule_probe")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_where_a_precision_collapses(dtype):
    for row, zero, gradient in zip(
        REFERENCE["collapse_logits"], REFERENCE[f"collapse_is_zero_{dtype}"], REFERENCE[f"collapse_grad_true_{dtype}"], strict=True
    ):
        loss_zero, gradient_zero = collapsed(row[None], torch.tensor([0]), getattr(torch, dtype))
        assert bool(loss_zero) == bool(zero)
        assert bool(gradient_zero) == bool(gradient == 0)


def trainer_of(head, *contexts):
    accelerator = SimpleNamespace(device=torch.device("cpu"), reduce=lambda value, reduction: value)
    return SimpleNamespace(head=head, contexts=contexts, accelerator=accelerator)


def test_shares_gap_and_alignment_of_a_session():
    head, session = LinearHead(3, 2, bias=False), session_of(2, 2)
    head.weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    features = torch.tensor([[100.0, 0, 0], [5.0, 0, 0], [0, 0, 1.0], [0, 2.0, 0]])
    logits = features @ head.weight.detach().T
    ctx = context_of(logits, torch.tensor([0, 0, 1, 1]), session, features=features)
    probe = SoftmaxCollapse(every=2)
    trainer = trainer_of(head, ctx)
    probe.begin_session(trainer, session)
    probe.after_step(trainer)
    probe.end_session(trainer, session)
    assert probe.report() == {"sessions": []}
    probe.after_step(trainer)
    probe.end_session(trainer, session)
    report = probe.report()
    assert report["float32_loss_zero"] == 0.25
    assert report["bfloat16_gradient_zero"] == 0.25
    assert report["median_gap"] == pytest.approx(2.0)
    errors = logits.softmax(-1) - torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1]), 2)
    gradient = errors.T @ features
    rows = head.weight.detach()
    expected = (rows * gradient).sum().abs() / (rows.norm() * gradient.norm())
    assert report["alignment"] == pytest.approx(expected.item(), abs=1e-6)


def test_a_resumed_probe_goes_on():
    session, ctx = session_of(2, 2), context_of(torch.randn(3, 2), torch.tensor([0, 1, 0]), session_of(2, 2))
    trainer = trainer_of(LinearHead(2, 2), ctx)
    straight, resumed = SoftmaxCollapse(every=1), SoftmaxCollapse(every=1)
    straight.begin_session(trainer, session)
    straight.after_step(trainer)
    resumed.begin_session(trainer, session)
    resumed.load_state_dict(straight.state_dict())
    for probe in (straight, resumed):
        probe.after_step(trainer)
        probe.end_session(trainer, session)
    assert straight.report() == resumed.report()


@pytest.mark.parametrize(("settings", "message"), [({"every": 0}, "every must be"), ({"dtypes": ["int8"]}, "'int8' is none of")])
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxCollapse(**settings)
