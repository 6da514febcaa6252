"""The closed forms against numbers that were derived by direct inverses."""

from __future__ import annotations

import pytest
import torch
from gaussian_reference import CLASSES, close, reference, rows_of, statistics_after, value

from hf_cl.heads.feature_maps import FeatureMap
from hf_cl.heads.gaussian_fit import Gaussians, log_det, mixed_factors, own_scores, own_spectra, posterior, shared_layer, whiten
from hf_cl.memory import ClassStatistics

QUERY = reference("query")
A, W, RANK = value("shrinkage"), value("own_share"), value("rank")
after = pytest.mark.parametrize("session", range(3))


def of(session: int, own: bool = True) -> Gaussians:
    return Gaussians.of(statistics_after(session), CLASSES[session], own=own)


def shared_scores(gaussians: Gaussians, shrinkage: float, rows: torch.Tensor = QUERY) -> torch.Tensor:
    weight, bias = shared_layer(gaussians, gaussians.cholesky(shrinkage))
    return rows @ weight.T + bias


def mixed_scores(gaussians: Gaussians, shrinkage: float, shares: torch.Tensor, rows: torch.Tensor = QUERY) -> torch.Tensor:
    """From the factors that are saved."""
    factors, log_dets = mixed_factors(gaussians, gaussians.shared_covariance(shrinkage), shares)
    difference = rows[:, None] - gaussians.means  # [B, C, D]
    return -0.5 * (torch.einsum("cde,bce->bcd", factors, difference).square().sum(-1) + log_dets)


@after
def test_statistics(session):
    gaussians = of(session)
    close(gaussians.counts, f"counts_after_{session}")
    close(gaussians.means, f"means_after_{session}")
    close(gaussians.shared_covariance(0.0), f"pooled_after_{session}")
    close(torch.stack([f.T @ f for f in gaussians.factors]), f"scatter_after_{session}")


@after
def test_shared(session):
    gaussians = of(session)
    weight, bias = shared_layer(gaussians, gaussians.cholesky(A))
    close(weight, f"shared_weight_after_{session}")
    close(bias, f"shared_bias_after_{session}")
    close(shared_scores(gaussians, A), f"shared_scores_after_{session}")
    assert gaussians.rule_shrinkage() == pytest.approx(value(f"rule_shrinkage_after_{session}"), rel=1e-12)
    close(shared_scores(gaussians, gaussians.rule_shrinkage()), f"shared_rule_scores_after_{session}")


@after
def test_mixed_and_low_rank(session):
    gaussians = of(session)
    close(gaussians.rule_own_shares(), f"rule_own_share_after_{session}")
    for name, a, shares in [
        ("mixed_scores", A, gaussians.own_shares(W)),
        ("mixed_rule_scores", gaussians.rule_shrinkage(), gaussians.rule_own_shares()),
    ]:
        lower = gaussians.cholesky(a)
        close(own_scores(gaussians, lower, own_spectra(gaussians, lower), shares[None], QUERY)[0], f"{name}_after_{session}")
        close(mixed_scores(gaussians, a, shares), f"{name}_after_{session}")
    lower = gaussians.cholesky(A)
    low_rank = own_scores(gaussians, lower, own_spectra(gaussians, lower, RANK), gaussians.own_shares(W)[None], QUERY, RANK)[0]
    close(low_rank, f"low_rank_scores_after_{session}")


@after
def test_prior(session):
    gaussians = of(session, own=False)
    for name, a in [("prior_scores", A), ("prior_rule_scores", gaussians.rule_shrinkage())]:
        lower = gaussians.cholesky(a)
        predictive = posterior(gaussians, lower, value("prior_flatness"))
        close(predictive.scores(whiten(lower, QUERY - gaussians.center)), f"{name}_after_{session}")
    lower = gaussians.cholesky(A)
    predictive = posterior(gaussians, lower, value("prior_flatness"))
    close(gaussians.center + predictive.means @ predictive.basis @ lower.T, f"prior_means_after_{session}")
    close(predictive.spectrum, f"prior_spectrum_after_{session}")


def map_of(kind: str, normalize: bool = False) -> FeatureMap:
    made = FeatureMap(12, kind, 20, gamma=value("gamma"), normalize=normalize, dtype=torch.float64)
    made.begin(rows_of(0)[0])
    if kind == "rff":
        made.weight.copy_(reference("rff_omega"))
        made.phase.copy_(reference("rff_phase"))
    else:
        made.weight.copy_(reference("relu_projection").T)
    return made


@after
@pytest.mark.parametrize("kind", ["rff", "relu"])
def test_maps(session, kind):
    made = map_of(kind)
    close(made.center, "map_center")
    close(made.scale, "map_scale")
    statistics = ClassStatistics({"pooled"})
    for i in range(session + 1):
        features, labels = rows_of(i)
        statistics.update(made(features), labels)
    gaussians = Gaussians.of(statistics, CLASSES[session], own=False)
    close(shared_scores(gaussians, A, made(QUERY)), f"{kind}_scores_after_{session}")
    assert gaussians.rule_shrinkage() == pytest.approx(value(f"{kind}_rule_shrinkage_after_{session}"), rel=1e-12)
    lower = gaussians.cholesky(A)
    scores = posterior(gaussians, lower, value("prior_flatness")).scores(whiten(lower, made(QUERY) - gaussians.center))
    close(scores, f"{kind}_prior_scores_after_{session}")


@after
def test_map_of_normalized_rows(session):
    made = map_of("rff", normalize=True)
    close(made.center, "normalized_center")
    close(made.scale, "normalized_scale")
    statistics = ClassStatistics({"pooled"})
    for i in range(session + 1):
        features, labels = rows_of(i)
        statistics.update(made(features), labels)
    close(shared_scores(Gaussians.of(statistics, CLASSES[session], own=False), A, made(QUERY)), f"normalized_rff_scores_after_{session}")


def gaussians_of(features: torch.Tensor, labels: torch.Tensor, classes: int) -> Gaussians:
    statistics = ClassStatistics({"pooled", "full"})
    statistics.update(features, labels)
    return Gaussians.of(statistics, classes, own=True)


def test_one_image_each_is_the_nearest_mean():
    gaussians = gaussians_of(reference("one_each_features"), torch.arange(4), 4)
    close(shared_scores(gaussians, A), "one_each_scores")
    close(mixed_scores(gaussians, A, gaussians.own_shares(W)), "one_each_mixed_scores")


def test_a_constant_feature():
    column, constant = reference("constant_feature").tolist()
    features, query = reference("features").clone(), QUERY.clone()
    features[:, int(column)] = constant
    query[:, int(column)] = constant
    gaussians = gaussians_of(features, reference("labels"), 9)
    close(shared_scores(gaussians, A, query), "constant_scores")
    close(mixed_scores(gaussians, A, gaussians.own_shares(W), query), "constant_mixed_scores")


def test_fewer_images_than_dimensions():
    rows = reference("fewer_than_width_index")
    labels = reference("labels")[rows]
    positions = torch.unique(labels, return_inverse=True)[1]
    gaussians = gaussians_of(reference("features")[rows], positions, 3)
    a = gaussians.rule_shrinkage()
    close(shared_scores(gaussians, a), "fewer_than_width_rule_scores")
    close(mixed_scores(gaussians, a, gaussians.rule_own_shares()), "fewer_than_width_mixed_rule_scores")
    with pytest.raises(ValueError, match=r"singular: shrinkage 0, 9 images of 3 classes, width 12.*shrinkage: rule"):
        gaussians.cholesky(0.0)


def test_statistics_that_moved():
    statistics = statistics_after(2)
    statistics.apply_linear(reference("drift_M"), reference("drift_b"))
    gaussians = Gaussians.of(statistics, 9, own=True)
    close(mixed_scores(gaussians, A, gaussians.own_shares(W)), "drift_mixed_scores")


def test_all_directions_are_mixed_and_no_share_is_shared():
    gaussians = of(2)
    lower, shares = gaussians.cholesky(A), gaussians.own_shares(W)
    exact = own_scores(gaussians, lower, own_spectra(gaussians, lower), shares[None], QUERY)[0]
    all_but_one = own_scores(gaussians, lower, own_spectra(gaussians, lower, 11), shares[None], QUERY, 11)[0]
    torch.testing.assert_close(all_but_one, exact, rtol=1e-9, atol=1e-9)
    none = own_scores(gaussians, lower, own_spectra(gaussians, lower), gaussians.own_shares(0.0)[None], QUERY)[0]
    difference = none - shared_scores(gaussians, A)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), rtol=0, atol=1e-8)


def test_an_invertible_map_of_everything_changes_no_score():
    generator = torch.Generator().manual_seed(0)
    matrix, shift = torch.randn(12, 12, generator=generator).double(), torch.randn(12, generator=generator).double()
    features, labels = reference("features"), reference("labels")
    plain, moved = gaussians_of(features, labels, 9), gaussians_of(features @ matrix.T + shift, labels, 9)
    query = QUERY @ matrix.T + shift
    torch.testing.assert_close(shared_scores(moved, 0.0, query).softmax(1), shared_scores(plain, 0.0).softmax(1), rtol=1e-7, atol=1e-9)
    shares = plain.own_shares(W)
    difference = mixed_scores(moved, 0.0, shares, query) - mixed_scores(plain, 0.0, shares)
    expected = -log_det(torch.linalg.cholesky(matrix @ matrix.T)) / 2
    torch.testing.assert_close(difference, expected.expand_as(difference), rtol=1e-7, atol=1e-6)


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match=r"Classes \[9\] have no images"):
        Gaussians.of(statistics_after(2), 10, own=False)
