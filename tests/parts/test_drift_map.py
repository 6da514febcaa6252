"""Maps between feature spaces against reference numbers, and what they do to statistics."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_heads import session_of

from hf_cl.heads import GaussianHead
from hf_cl.memory import ClassStatistics
from hf_cl.parts.drift_map import (
    DriftMap,
    affine_map,
    carry,
    commutativity,
    explained,
    functional_coefficients,
    principal,
    ridge_drift,
    rotation,
    sdc_shifts,
    sdc_sigma,
)

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "drift_map" / "drift.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def close(mine, name, tolerance=1e-9):
    wanted = reference(name)
    assert (torch.as_tensor(mine) - wanted).abs().max() / wanted.abs().max() < tolerance, name


OLD, NEW, MEANS, LAM = reference("old"), reference("new"), reference("means"), float(REFERENCE["lam"])


def test_ridge_of_the_reference():
    drift = ridge_drift(OLD, NEW, LAM)
    close(drift, "A")
    close(explained(OLD, NEW, drift), "explained")
    found = affine_map(OLD, NEW, "ridge", LAM)
    close(found(MEANS), "ridge_means")
    close(found.matrix @ reference("covariances") @ found.matrix.T, "ridge_covariances")


def test_other_kinds_of_the_reference():
    close(rotation(OLD - OLD.mean(0), NEW - NEW.mean(0)).T, "procrustes_R")
    close(affine_map(OLD, NEW, "procrustes")(MEANS), "procrustes_means")
    close(sdc_sigma(MEANS, OLD), "sdc_sigma")
    close(MEANS + sdc_shifts(MEANS, OLD, NEW), "sdc_means")
    k, mu = int(REFERENCE["fmap_k"]), float(REFERENCE["fmap_mu"])
    x, y = OLD - OLD.mean(0), NEW - NEW.mean(0)
    (values_x, basis_x), (values_y, basis_y) = principal(x, k), principal(y, k)
    close(values_x, "fmap_eig_old")
    close(basis_y, "fmap_basis_new")
    mask = commutativity(values_x, values_y)
    close(mask, "fmap_mask")
    close(functional_coefficients(x @ basis_x, y @ basis_y, mask, mu), "fmap_C")


def test_the_ridge_solution_is_the_minimum_of_its_objective():
    x, d = OLD - OLD.mean(0), NEW - OLD
    penalty = LAM * (x.T @ x).trace() / len(x) / 6
    drift = ridge_drift(OLD, NEW, LAM).requires_grad_()
    loss = (d - d.mean(0) - x @ drift).square().sum() / len(x) + penalty * drift.square().sum()
    (gradient,) = torch.autograd.grad(loss, drift)
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["mean", "sdc", "ridge", "procrustes"])
def test_a_pure_shift_comes_back(kind):
    statistics = of(OLD)
    shift = torch.arange(6).double()
    means = statistics.means(range(4))
    carry(statistics, OLD, OLD + shift, kind)
    torch.testing.assert_close(statistics.means(range(4)), means + shift, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["ridge", "procrustes"])
def test_a_rotation_comes_back(kind):
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    statistics, moved = of(OLD), of(OLD @ turn)
    carry(statistics, OLD, OLD @ turn, kind, lam=1e-12)
    torch.testing.assert_close(statistics.means(range(4)), moved.means(range(4)), rtol=0, atol=1e-6)
    torch.testing.assert_close(statistics.covariance(2), moved.covariance(2), rtol=0, atol=1e-6)


def of(features) -> ClassStatistics:
    statistics = ClassStatistics({"full", "pooled"})
    statistics.update(features, torch.arange(len(features)) % 4)
    return statistics


class Trainer(SimpleNamespace):
    """Features before and after a session."""

    def features_of(self, dataset):
        return SimpleNamespace(features=dataset.features, labels=dataset.labels, index=dataset.index)


def drifted(part: DriftMap, before, after, head=None):
    """Statistics of four classes, and a session of two more whose features go from `before` to `after`."""
    statistics = of(OLD.float())
    trainer = Trainer(statistics=statistics, head=head or GaussianHead(6, 4))
    labels = torch.tensor([4, 5]).repeat(20)
    part.begin_session(trainer, session_of(1, "abcdef", 2, before.float(), labels))
    state = part.state_dict()
    part.load_state_dict(state)
    part.before_statistics(trainer, session_of(1, "abcdef", 2, after.float(), labels))
    return statistics


def test_the_part_moves_earlier_classes():
    expected = of(OLD.float())
    carry(expected, OLD.float().double(), NEW.float().double(), "ridge", 0.1)
    statistics = drifted(DriftMap(), OLD, NEW)
    assert torch.equal(statistics.means(range(4)), expected.means(range(4)))
    assert statistics.summary()["moved"]


def test_where_nothing_moves_nothing_changes():
    statistics = drifted(DriftMap(), OLD, OLD)
    assert torch.equal(statistics.means(range(4)), of(OLD.float()).means(range(4)))
    assert not statistics.summary()["moved"]


def test_extrapolation_is_said(caplog):
    far = OLD.clone()
    far[:, 0] *= 1e-2  # the session varies little where the old classes vary much
    with caplog.at_level(logging.WARNING):
        drifted(DriftMap(lam=0.0), far, far + 50 * far[:, :1] * torch.eye(6, dtype=torch.float64)[0])
    assert "it extrapolates" in caplog.text


def test_a_drift_that_is_noise_is_one_shift():
    noise = OLD + torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).double()
    assert affine_map(OLD, noise, "ridge").matrix is None


def test_statistics_under_a_map_are_refused():
    with pytest.raises(ValueError, match=r"GaussianHead keeps statistics under a map.*adapt_sessions: first"):
        drifted(DriftMap(), OLD, NEW, GaussianHead(6, 4, feature_map="rff"))


@pytest.mark.parametrize("seed", range(5))
def test_means_of_drifted_classes_are_found_again(seed):
    """The mechanism: features move by a smooth function, old images are gone; shuffled pairs do no better than one shift."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(12, 16, generator=generator).double()
    labels = torch.arange(12).repeat_interleave(60)
    features = centers[labels] + torch.randn(len(labels), 16, generator=generator).double()
    turn = torch.eye(16).double() + 0.3 * torch.randn(16, 16, generator=generator).double()
    after = features @ turn + 0.3 * torch.tanh(features) + 1.0
    old, new = labels < 6, labels >= 6

    def distance(kind, pairs):
        statistics = ClassStatistics({"full"})
        statistics.update(features[old], labels[old])
        if kind is not None:
            carry(statistics, features[new], pairs, kind)
        true = torch.stack([after[labels == c].mean(0) for c in range(6)])
        return float((statistics.means(range(6)) - true).norm(dim=1).mean())

    none, mean, ridge = distance(None, after[new]), distance("mean", after[new]), distance("ridge", after[new])
    assert ridge < 0.5 * none and ridge < mean
    shuffled = after[new][torch.randperm(int(new.sum()), generator=generator)]
    assert distance("ridge", shuffled) > 0.99 * distance("mean", shuffled)
