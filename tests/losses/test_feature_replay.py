"""Drawn features against numbers of an independent derivation; that they keep earlier classes; a run that stops and goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from losses.reference_net import numbers
from torch.nn import functional as F

from hf_cl.losses import FeatureReplay
from hf_cl.losses.feature_replay import drawn, factor_of
from hf_cl.memory.class_statistics import ClassStatistics

N = numbers("dsi_pp/01_replay_sam_events")
CLASSES = 4


def statistics(kinds=("full", "diag", "pooled")):
    found = ClassStatistics(kinds)
    for label in range(CLASSES):
        found.update(N[f"x{label}"], torch.full((len(N[f"x{label}"]),), label))
    return found


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_features_for_given_noise_are_those_of_the_derivation(covariance):
    found = statistics()
    for label in range(CLASSES):
        factor = factor_of(found, label, covariance, float(N["shrink"]))[None]
        mean, noise = found.mean(label)[None], N[f"noise{label}"]
        features, labels = drawn(mean, factor, torch.tensor([label]), 3, noise)
        assert torch.allclose(features, N[f"sample_{covariance}{label}"], atol=1e-10, rtol=0)
        assert labels.tolist() == [label] * len(noise)


def test_the_loss_and_its_gradients_are_those_of_the_derivation():
    weight, bias = N["W"].clone().requires_grad_(), N["b"].clone().requires_grad_()
    rows = torch.cat([N[f"sample_full{label}"] for label in range(CLASSES)])
    loss = F.cross_entropy(rows @ weight.T + bias, N["replay_y"].long())
    loss.backward()
    assert torch.allclose(loss, N["replay_loss"], atol=1e-10)
    assert torch.allclose(weight.grad, N["replay_grad_W"], atol=1e-10) and torch.allclose(bias.grad, N["replay_grad_b"], atol=1e-10)


def test_classes_come_in_turn_over_the_steps():
    rows = round(int(N["deal_batch"]) * float(N["ratio"]))
    means, factors = torch.zeros(CLASSES, 2), torch.ones(CLASSES, 2)
    counts = []
    for step in range(3):
        _, labels = drawn(means, factors, torch.arange(CLASSES), step * rows, torch.zeros(rows, 2))
        counts.append(np.bincount(labels, minlength=CLASSES).tolist())
    assert counts == N["deal_counts"].tolist()
    few = [drawn(means, factors, torch.arange(CLASSES), 3 * step, torch.zeros(3, 2))[1].tolist() for step in range(3)]
    assert few == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]


def test_drawn_rows_of_all_classes_have_their_moments():
    found = statistics()
    means = found.means(range(CLASSES))
    factors = torch.stack([factor_of(found, label, "full", 0.0) for label in range(CLASSES)])
    noise = torch.randn(40_000, means.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features, labels = drawn(means, factors, torch.arange(CLASSES), 1, noise)
    for label in range(CLASSES):
        mine = features[labels == label]
        assert torch.allclose(mine.mean(0), means[label], atol=0.05 * float(factors[label].norm()))
        assert torch.allclose(torch.cov(mine.T), factors[label] @ factors[label].T, atol=0.1 * float(factors[label].norm()) ** 2)


def sessions(seed, mode):
    """Five sessions of two Gaussian classes with covariances of their own, a linear head: accuracy on all ten at the end."""
    g = torch.Generator().manual_seed(seed)
    centers = 1.2 * torch.randn(10, 16, generator=g)
    shapes = torch.eye(16) + 0.4 * torch.randn(10, 16, 16, generator=g)

    def draw(label, count):
        return centers[label] + torch.randn(count, 16, generator=g) @ shapes[label]

    weight, bias = torch.zeros(10, 16, requires_grad=True), torch.zeros(10, requires_grad=True)
    found = ClassStatistics(("full",))
    for session in range(5):
        labels = torch.tensor([2 * session, 2 * session + 1]).repeat_interleave(60)
        x = torch.cat([draw(2 * session, 60), draw(2 * session + 1, 60)])
        optimizer = torch.optim.Adam([weight, bias], lr=1e-2)
        seen, earlier = 2 * session + 2, list(range(2 * session))
        for step in range(80):
            some = torch.randint(0, len(x), (30,), generator=g)
            loss = F.cross_entropy((x[some] @ weight.T + bias)[:, :seen], labels[some])
            if earlier and mode != "none":
                order = earlier if mode == "replay" else [*earlier[1:], earlier[0]]  # another class's statistics
                factors = torch.stack([factor_of(found, label, "full", 0.0) for label in order]).float()
                rows, said = drawn(found.means(order).float(), factors, torch.tensor(earlier), step * 30, torch.randn(30, 16, generator=g))
                loss = loss + F.cross_entropy((rows @ weight.T + bias)[:, :seen], said)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.update(x, labels)
    tests = torch.cat([draw(label, 50) for label in range(10)])
    return float(((tests @ weight.T + bias).argmax(1) == torch.arange(10).repeat_interleave(50)).float().mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_replayed_features_keep_earlier_classes_and_those_of_others_do_not(seed):
    none, replay, wrong = (sessions(seed, mode) for mode in ("none", "replay", "wrong"))
    assert replay > none + 0.2 and wrong < replay - 0.3, (none, replay, wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ratio": 0.0}, "ratio must be positive"), ({"covariance": "low"}, "'full' or 'diag'"), ({"shrinkage": 2.0}, "between 0 and 1")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FeatureReplay(**settings)
