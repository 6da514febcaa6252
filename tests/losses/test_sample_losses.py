"""Losses that remember every image: PS-KD and ELR against numbers of their official code."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from losses.fakes import session_of
from losses.reference_net import numbers
from torch.nn import functional as F

from hf_cl.contracts import Context, Outputs
from hf_cl.losses import EarlyLearning, SelfDistillation

PSKD, ELR = numbers("ps_kd/01_three_epochs"), numbers("elr/01_steps")


def trainer():
    return SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")), contexts=[])


def context(logits, labels, index, session, epoch=0):
    return Context({"labels": labels, "index": index}, (Outputs(logits, logits, logits),), session, epoch=epoch, step=0, frozen=None)


def widened(term, *tables):
    """Tables in float64, so that the reference's digits can be compared."""
    for table in tables:
        table.values = table.values.double()
    return term


def after_step(term, *contexts):
    loop = trainer()
    for seen in contexts:
        logits = seen.logits.detach()
        loop.contexts.append(context(logits, seen.labels, seen.batch["index"], seen.session, seen.epoch))
    term.after_step(loop)


def self_distillation(labels, *, epochs=3, **settings):
    term = SelfDistillation(epochs=epochs, **settings)
    session = session_of(4, 4, labels)
    term.begin_session(trainer(), session)
    return widened(term, term._read, term._written), session


def test_self_distillation_is_the_official_run():
    x, y = PSKD["X"], PSKD["y"]
    term, session = self_distillation(y.tolist(), alpha=float(PSKD["alpha_T"]))
    w = PSKD["W0"].clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=float(PSKD["lr"]), momentum=0.9, nesterov=True, weight_decay=5e-4)
    losses = []
    for epoch in range(3):
        assert term.share(epoch) == pytest.approx(float(PSKD["alpha"][epoch]), abs=1e-15)
        term.begin_epoch(trainer(), epoch)
        for number, index in enumerate(PSKD["order"][epoch].split(int(PSKD["batch"]))):
            ctx = context(x[index] @ w.T, y[index], index, session, epoch)
            loss = term(ctx)
            optimizer.zero_grad()
            loss.backward()
            if (epoch, number) == (1, 0):
                torch.testing.assert_close(ctx.logits.detach(), PSKD["epoch1_first.logits"], rtol=0, atol=1e-12)
                torch.testing.assert_close(loss.detach(), PSKD["epoch1_first.loss"], rtol=0, atol=1e-12)
                torch.testing.assert_close(w.grad, PSKD["epoch1_first.grad_W"], rtol=0, atol=1e-12)
            optimizer.step()
            after_step(term, ctx)
            losses.append(loss.detach())
        torch.testing.assert_close(w.detach(), PSKD[f"W_after{epoch}"], rtol=0, atol=1e-12)
        torch.testing.assert_close(term._written.values[:-1], PSKD[f"memory_after{epoch}"], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.stack(losses), PSKD["loss"], rtol=0, atol=1e-12)


def test_one_epoch_of_self_distillation_is_cross_entropy_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        term, session = self_distillation([0, 1, 2, 3], epochs=1)
    assert "plain cross-entropy" in caplog.text
    logits, labels = torch.randn(4, 4), torch.arange(4)
    torch.testing.assert_close(term(context(logits, labels, torch.arange(4), session)).float(), F.cross_entropy(logits, labels))


def test_an_image_twice_in_an_epoch_reads_what_the_last_epoch_left():
    term, session = self_distillation([0, 1, 2, 3])
    index, labels = torch.tensor([2]), torch.tensor([2])
    first = context(torch.randn(1, 4), labels, index, session)
    again = context(torch.randn(1, 4), labels, index, session)
    before = term(again)
    after_step(term, first)
    assert torch.equal(term(again), before)
    term.begin_epoch(trainer(), 1)
    assert not torch.equal(term(again), before)


def test_an_unknown_image_keeps_its_label():
    term, session = self_distillation([0, 1, 2, 3])
    logits = torch.randn(1, 4)
    strange = context(logits, torch.tensor([1]), torch.tensor([999]), session, epoch=2)
    torch.testing.assert_close(term(strange).float(), F.cross_entropy(logits, torch.tensor([1])))


def test_the_table_of_a_session_goes_with_it():
    term, _ = self_distillation([0, 1, 2, 3])
    term.end_session(trainer(), session_of(4, 4))
    assert term.state_dict() == {}


def test_a_half_table_is_near_a_full_one():
    full, session = self_distillation([0, 1, 2, 3])
    half = SelfDistillation(epochs=3, memory_dtype="float16")
    half.begin_session(trainer(), session)
    step = context(torch.randn(4, 4), torch.arange(4), torch.arange(4), session)
    for term in (full, half):
        after_step(term, step)
        term.begin_epoch(trainer(), 1)
    later = context(torch.randn(4, 4), torch.arange(4), torch.arange(4), session, epoch=2)
    torch.testing.assert_close(half(later).double(), full(later).double(), rtol=0, atol=5e-4)


def early_learning(size=20, columns=4, **settings):
    term = EarlyLearning(**settings)
    term.begin_session(trainer(), session_of(columns, columns, [i % columns for i in range(size)]))
    return widened(term, term.table)


def test_early_learning_is_the_official_class():
    term, session = early_learning(weight=float(ELR["weight"])), session_of(4, 4)
    for step in range(len(ELR["logits"])):
        logits = ELR["logits"][step].clone().requires_grad_()
        ctx = context(logits, ELR["y"][step], ELR["index"][step], session)
        value = term(ctx)
        torch.testing.assert_close(value.detach(), ELR["regularizer"][step], rtol=0, atol=1e-12)
        total = F.cross_entropy(logits, ELR["y"][step]) + term.weight_at(0) * value
        torch.testing.assert_close(total.detach(), ELR["total_loss"][step], rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(total, logits)
        torch.testing.assert_close(gradient, ELR["grad_logits"][step], rtol=0, atol=1e-12)
        after_step(term, ctx)
        torch.testing.assert_close(term.memory()[1].double(), ELR["memory"][step], rtol=0, atol=1e-6)
        torch.testing.assert_close(term.table.values[:-1, :-1], ELR["memory"][step], rtol=0, atol=1e-12)


def test_early_learning_over_four_epochs():
    term, session = early_learning(weight=float(ELR["weight"])), session_of(4, 4)
    w = ELR["W0"].clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.2, momentum=0.9, weight_decay=1e-3)
    for epoch in range(4):
        for index in ELR["order"][epoch].split(int(ELR["batch"])):
            ctx = context(ELR["X"][index] @ w.T, ELR["y_data"][index], index, session)
            optimizer.zero_grad()
            (F.cross_entropy(ctx.logits, ctx.labels) + term.weight_at(0) * term(ctx)).backward()
            optimizer.step()
            after_step(term, ctx)
        torch.testing.assert_close(w.detach(), ELR[f"W_after{epoch}"], rtol=0, atol=1e-12)
    torch.testing.assert_close(term.table.values[:-1, :-1], ELR["traj_memory"], rtol=0, atol=1e-12)


def test_confident_half_precision_logits_stay_finite():
    term, session = early_learning(), session_of(4, 4)
    logits = torch.tensor([[60.0, -60, 0, 0]], dtype=torch.float16, requires_grad=True)
    ctx = context(logits, torch.tensor([0]), torch.tensor([3]), session)
    for _ in range(30):
        value = term(ctx)
        after_step(term, ctx)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.isfinite().all()


def test_rows_of_images_that_were_not_seen_do_not_move():
    term, session = early_learning(), session_of(4, 4)
    before = term.table.values.clone()
    after_step(term, context(torch.randn(2, 4).double(), torch.tensor([0, 1]), torch.tensor([4, 7]), session))
    moved = (term.table.values != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [4, 7]


def test_the_correction_undoes_the_weak_start():
    plain, corrected, session = early_learning(), early_learning(bias_correction=True), session_of(4, 4)
    ctx = context(torch.randn(3, 4).double(), torch.arange(3), torch.arange(3), session)
    q = ctx.logits.softmax(-1)
    torch.testing.assert_close(corrected(ctx), (1 - (q * q).sum(-1)).log().mean(), rtol=0, atol=1e-6)
    assert corrected(ctx) < plain(ctx)


def test_weights_may_follow_the_epoch():
    assert EarlyLearning(weight=lambda epoch: 2.0 * epoch).weight_at(3) == 6.0


def test_few_images_a_class_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        early_learning(size=8)
    assert "no early phase" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfDistillation(epochs=0), "epochs must be at least 1"),
        (lambda: SelfDistillation(epochs=3, alpha=1.1), "alpha must be between"),
        (lambda: SelfDistillation(epochs=3, memory_dtype="int8"), "memory_dtype must be"),
        (lambda: EarlyLearning(beta=1.0), "beta must be"),
        (lambda: EarlyLearning(clamp=0.5), "clamp must be"),
        (lambda: EarlyLearning(weight=-1), "weight must not be negative"),
        (lambda: EarlyLearning(classes="old"), "classes must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
