"""Noise in a window: the schedule's reference numbers, draws with the mean 1, plain cross-entropy outside, and a run that goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device_runs import Kill, Run, _Killed, build
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from hf_cl.contracts import Context, Outputs
from hf_cl.contrib.noise_windows import SHAPE, NoisyCrossEntropy
from hf_cl.heads import LinearHead
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods import compose

TRACES = np.load(Path(__file__).parents[1] / "reference" / "session_probes" / "traces.npz")


def begun(head: nn.Module, **settings: Any) -> NoisyCrossEntropy:
    loss = NoisyCrossEntropy(**{"epochs": 4, "classes": "new", **settings})
    trainer: Any = SimpleNamespace(head=head, generator_for=lambda *key: torch.Generator().manual_seed(7))
    session: Any = SimpleNamespace(id=1, own=range(2, 5))
    loss.begin_session(trainer, session)
    return loss


def context(head: nn.Module, features: torch.Tensor, labels: torch.Tensor, epoch: int, step: int = 3) -> Context:
    session: Any = SimpleNamespace(id=1, own=range(2, 5))
    view = Outputs(features, head(features), features)
    batch = {"labels": labels, "index": torch.arange(len(labels)) + 40}
    return Context(batch, (view,), session, epoch, step, frozen=lambda role: view)


@pytest.mark.parametrize(("name", "start", "rate"), [("late_dropout_half", 0.5, 0.1), ("late_dropout_three_quarters", 0.75, 0.2)])
def test_late_dropout_is_on_in_the_epochs_of_the_reference(name, start, rate):
    loss = NoisyCrossEntropy(rate=rate, start=start, epochs=9)
    assert [rate if loss.disturbs(epoch) else 0.0 for epoch in range(9)] == TRACES[name].tolist()
    early = NoisyCrossEntropy(stop=start, epochs=9)
    assert all(early.disturbs(epoch) != loss.disturbs(epoch) for epoch in range(9))


def test_noise_has_the_mean_one_and_the_law_it_says():
    head, index = LinearHead(8, 5), torch.arange(4000)
    dropout = begun(head, rate=0.3).noise(index, 8, 0)
    torch.testing.assert_close(dropout.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert (dropout.mean(0) - 1).abs().max() < 0.05
    beta = begun(head, kind="beta").noise(index, 8, 0)
    assert abs(float(beta.mean()) - 1) < 0.003
    plain = beta / (1 + 1 / SHAPE)  # in (0, 1)
    for share in (0.1, 0.5, 0.9):  # of Beta(a, 1) the quantiles are share ^ (1 / a)
        assert abs(float(plain.flatten().quantile(share)) - share ** (1 / SHAPE)) < 0.005
    variance = float(torch.distributions.Beta(torch.tensor(SHAPE), torch.tensor(1.0)).variance)
    assert abs(float(plain.var()) / variance - 1) < 0.03


def test_outside_of_the_window_it_is_plain_cross_entropy_to_the_bit():
    head, features, labels = LinearHead(8, 5), torch.randn(6, 8), torch.tensor([2, 3, 4, 2, 3, 4])
    nn.init.normal_(head.weight)
    loss, plain, found = begun(head, kind="beta", stop=0.5), MaskedCrossEntropy("new"), {}
    for epoch in (1, 2):
        given = features.clone().requires_grad_()
        value = loss(context(head, given, labels, epoch))
        (gradient,) = torch.autograd.grad(value, given)
        other = features.clone().requires_grad_()
        expected = plain(context(head, other, labels, epoch))
        found[epoch] = torch.equal(value, expected) and torch.equal(gradient, torch.autograd.grad(expected, other)[0])
        again = loss(context(head, given, labels, epoch))
        assert torch.equal(value, again)  # pure: a rule may call it twice
    assert found == {1: False, 2: True}


def test_value_and_gradient_inside_are_those_of_disturbed_features():
    head, features, labels = LinearHead(8, 5), torch.randn(6, 8), torch.tensor([2, 3, 4, 2, 3, 4])
    nn.init.normal_(head.weight)
    loss, given = begun(head, rate=0.4), features.clone().requires_grad_()
    noise = loss.noise(torch.arange(6) + 40, 8, 3)
    value = loss(context(head, given, labels, 0))
    expected = F.cross_entropy((features * noise) @ head.weight.T[:, 2:] + head.bias[2:], labels - 2)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, given)
    assert torch.equal(gradient == 0, noise == 0)  # the adapter hears nothing of what was hidden


def test_dropout_spreads_what_one_loud_feature_would_do_alone():
    """Ten features say the same, one of them ten times as loud: under dropout the head does not lean on it (Wager et al., NeurIPS 2013)."""
    shares = {}
    for name in ("dropout", "none"):
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            labels = torch.randint(2, 5, (90,))
            features = F.one_hot(labels - 2, 3).float().repeat(1, 10) + 0.05 * torch.randn(90, 30)  # [n, 10 copies of three]
            features[:, :3] *= 10
            head = LinearHead(30, 5)
            loss = begun(head, rate=0.5) if name == "dropout" else MaskedCrossEntropy("new")
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
            for step in range(80):
                optimizer.zero_grad()
                loss(context(head, features, labels, 0, step)).backward()
                optimizer.step()
            features[:, :3] = 0  # the loud one breaks
            own = head(features)[:, 2:].detach()
            found.append(float(F.cross_entropy(own, labels - 2)))
        shares[name] = found
    assert all(broken < 0.7 * plain for broken, plain in zip(shares["dropout"], shares["none"], strict=True)), shares


def test_what_cannot_be():
    for settings, said in (
        ({"kind": "gaussian"}, "dropout or beta"),
        ({"rate": 1.0}, "between 0 and 1"),
        ({"start": 0.5, "stop": 0.5}, "start"),
        ({"epochs": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            NoisyCrossEntropy(**{"epochs": 2, **settings})
    tokens = LinearHead(8, 5)
    tokens.reads = "tokens"
    with pytest.raises(ValueError, match="noisy_cross_entropy asks the head"):
        begun(tokens)


def test_a_run_that_goes_on_is_the_one_that_did_not_stop(tmp_path):
    """By its name in `compose`, which says how long a session is."""
    run, tensors = Run(partial(compose, main={"type": "noisy_cross_entropy", "start": 0.5}, epochs=2)), []
    for name, kills in (("whole", (-1,)), ("cut", (1, -1))):
        for kill in kills:
            trainer = build(run, tmp_path / name, tmp_path, probes=[Kill(kill)], checkpoint_steps=1, resume="auto")
            (loss,) = trainer.method.phases(next(iter(trainer.scenario)))[0].losses
            assert isinstance(loss, NoisyCrossEntropy) and [loss.disturbs(epoch) for epoch in (0, 1)] == [False, True]
            try:
                trainer.fit()
            except _Killed:
                continue
        tensors.append(load_file(tmp_path / name / "adapters" / "session-1" / "adapter_model.safetensors"))
    whole, cut = tensors
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
