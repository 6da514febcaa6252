"""The store of class statistics: reference numbers, merging in any order, draws, what moves, what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cl.memory import ClassStatistics
from hf_cl.memory.statistics_tensors import moments_of, tensors_of

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "class_statistics" / "stats.npz")
FULL = ("full", "pooled", "diag")
COVERED = [c for c in range(5) if REFERENCE["count"][c] > 1]


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[name])


def of(features, labels, kinds=FULL, **kwargs) -> ClassStatistics:
    statistics = ClassStatistics(kinds, **kwargs)
    statistics.update(features, labels)
    return statistics


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    mix = torch.randn(5, 5, generator=generator)
    return 100.0 + torch.randn(60, 5, generator=generator) @ mix + labels[:, None], labels


def close(a, b, tolerance=1e-10):
    b = torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max().clamp_min(1.0)))


def same(one: ClassStatistics, other: ClassStatistics, tolerance: float = 1e-10) -> None:
    assert one.classes == other.classes
    for c in one.classes:
        assert one.count(c) == other.count(c)
        close(one.mean(c), other.mean(c), tolerance)
        close(one.factor(c).T @ one.factor(c), other.factor(c).T @ other.factor(c), tolerance)
    close(one.pooled_scatter(), other.pooled_scatter(), tolerance)


def test_numbers_of_the_reference():
    statistics = of(reference("features"), reference("labels"))
    for c in range(5):
        assert statistics.count(c) == REFERENCE["count"][c]
        close(statistics.mean(c), REFERENCE["mean"][c])
        close(statistics.factor(c).T @ statistics.factor(c), REFERENCE["scatter"][c])
    for c in COVERED:
        close(statistics.covariance(c), REFERENCE["covariance"][c])
        close(statistics.variances(c), REFERENCE["diag"][c])
        close(statistics.usable_covariance(c, eps=0.0, shrinkage=0.3), REFERENCE["shrunk_covariance"][c])
        low = statistics.low_rank(c, rank=2)
        close(low.factor.T @ low.factor, REFERENCE["low_rank_factor_gram"][c], 1e-8)
        assert low.residual == pytest.approx(REFERENCE["low_rank_residual"][c], abs=1e-8)
    close(statistics.pooled_covariance(), REFERENCE["pooled_covariance"])
    query = reference("query")
    ridge = torch.linalg.inv(statistics.pooled_covariance() + 0.1 * torch.eye(6, dtype=torch.float64))
    difference = query[:, None] - statistics.means(range(5))  # [8, 5, 6]
    close((difference @ ridge * difference).sum(-1), REFERENCE["mahalanobis_pooled_ridge_0_1"])


def test_processes_and_updates_of_the_reference_merge_to_the_whole():
    rank, update = reference("rank"), reference("update")
    merged = ClassStatistics(FULL)
    for process in range(3):
        share = ClassStatistics(FULL)
        for part in range(2):
            mine = (rank == process) & (update == part)
            share.update(reference("features")[mine], reference("labels")[mine])
        for c in share.classes:
            close(share.mean(c), REFERENCE["part_mean"][process, c])
            close(share.factor(c).T @ share.factor(c), REFERENCE["part_scatter"][process, c])
        merged.merge(share)
    same(merged, of(reference("features"), reference("labels")))


def test_a_large_offset_costs_no_digits():
    offset = float(REFERENCE["offset"])
    shifted = ClassStatistics(FULL)
    for rows in torch.arange(62).split(7):
        shifted.update(reference("features")[rows] + offset, reference("labels")[rows])
    for c in range(5):
        close(shifted.factor(c).T @ shifted.factor(c), REFERENCE["scatter"][c], 1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_any_partition_in_any_order(sample, seed):
    features, labels = sample
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(60, generator=generator)
    cuts = torch.randint(1, 20, (8,), generator=generator).tolist()
    split = ClassStatistics(FULL)
    for rows in order.split([*cuts, 60 - sum(cuts)] if sum(cuts) < 60 else [20, 40]):
        part = of(features[rows], labels[rows])
        split.merge(part)
    same(split, of(features, labels))


def test_a_factor_has_no_more_rows_than_its_rank(sample):
    features, labels = sample
    assert of(features[:9], labels[:9]).factor(0).shape == (2, 5)  # three samples
    assert of(features, labels).factor(0).shape == (5, 5)  # twenty


def test_half_precision_is_added_up_in_double():
    features = 4096.0 + torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    statistics = ClassStatistics(FULL)
    for row in features.to(torch.float16):
        statistics.update(row[None], torch.zeros(1, dtype=torch.long))
    close(statistics.covariance(0), features.to(torch.float16).double().T.cov().reshape(1, 1))


def test_one_sample_has_no_covariance_and_borrows_the_mean_one(sample):
    features, labels = sample
    statistics = of(torch.cat([features, features[:1]]), torch.cat([labels, torch.tensor([4])]))
    with pytest.raises(ValueError, match="Class 4 has one sample"):
        statistics.covariance(4)
    close(statistics.usable_covariance(4, eps=0.0), statistics.pooled_covariance())


@pytest.mark.parametrize("kinds", [(), ("pooled",), ("diag",), ("low_rank",), ("full",), ("full", "low_rank", "pooled")])
def test_what_is_kept_is_what_was_asked_for(sample, kinds):
    whole, some = of(*sample), of(*sample, kinds=kinds, rank=2)
    close(some.means(range(3)), whole.means(range(3)))
    if {"full", "pooled"} & set(kinds):
        close(some.pooled_covariance(), whole.pooled_covariance())
    else:
        with pytest.raises(ValueError, match=r"not 'pooled': a head or part declares"):
            some.pooled_covariance()
    if "full" in kinds:
        close(some.covariance(1), whole.covariance(1))
    elif kinds == ("diag",):
        close(some.covariance(1), torch.diag(whole.variances(1)))
    elif kinds == ("low_rank",):
        low = whole.low_rank(1, rank=2)
        close(some.covariance(1), low.factor.T @ low.factor + low.residual * torch.eye(5, dtype=torch.float64))
    else:
        with pytest.raises(ValueError, match=r"not 'full'"):
            some.covariance(1)


def test_a_session_is_counted_once_and_what_was_before_is_known(sample):
    features, labels = sample
    statistics = ClassStatistics(FULL)
    statistics.count_session(0, features[:30], labels[:30])
    statistics.count_session(1, features[30:], labels[30:])
    again = of(features[:30], labels[:30])
    same(statistics.before(1), again)
    statistics.count_session(1, features[30:], labels[30:])
    same(statistics, of(features, labels))
    assert statistics.sessions == (0, 1)
    with pytest.raises(KeyError, match="session 0 is not the last"):
        statistics.before(0)
    changed = statistics.before(1)
    changed.update(features, labels)
    same(statistics.before(1), again)


def test_a_class_of_low_rank_is_final(sample):
    statistics = of(*sample, kinds=("low_rank",))
    with pytest.raises(ValueError, match=r"Class 0 .*cannot take more samples"):
        statistics.update(*sample)


def test_bad_features_are_named(sample):
    features, labels = sample
    features[[4, 7]] = torch.nan
    with pytest.raises(ValueError, match=r"class 1 are not finite: samples \[4, 7\]"):
        of(features, labels)
    statistics = ClassStatistics()
    with pytest.raises(ValueError, match=r"class 1 are not finite: samples \[104, 107\]"):
        statistics.update(features, labels, torch.arange(60) + 100)


def test_another_width_and_other_kinds_are_refused(sample):
    statistics = of(*sample)
    with pytest.raises(ValueError, match="width 3 came to statistics of width 5"):
        statistics.update(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="one side keeps diag, full, pooled, the other means alone"):
        statistics.merge(ClassStatistics())
    with pytest.raises(ValueError, match="keeps diag, full, low_rank, pooled, got ful"):
        ClassStatistics(["ful"])


def test_an_unseen_class_is_named():
    statistics = ClassStatistics()
    assert statistics.count(7) == 0
    for ask in (statistics.mean, statistics.covariance, lambda c: statistics.means([c]), lambda c: statistics.subset([c])):
        with pytest.raises(KeyError, match="no statistics of class 7"):
            ask(7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("kinds", "rank", "fits"), [(("full",), 2, True), (("low_rank",), 4, True), (("diag",), 2, False)])
def test_draws_have_mean_and_covariance(sample, seed, kinds, rank, fits):
    statistics = of(*sample, kinds=kinds, rank=rank)
    wanted = of(*sample).covariance(1)
    draws = statistics.sample(1, 20_000, torch.Generator().manual_seed(seed), eps=0.0)
    error = (draws.mean(0) - statistics.mean(1)).abs()
    assert (error < 4 * (wanted.diagonal() / 20_000).sqrt()).all()
    distance = (draws.T.cov() - wanted).norm() / wanted.norm()
    assert bool(distance < 0.05) == fits  # a diagonal fails on correlated data


def test_draws_are_shrunk_shifted_and_the_same_every_time(sample):
    statistics = of(*sample)
    draw = statistics.sample(2, 50_000, torch.Generator().manual_seed(3), mean_scale=0.5, eps=0.2, shrinkage=0.4)
    wanted = statistics.usable_covariance(2, eps=0.2, shrinkage=0.4)
    assert (draw.T.cov() - wanted).norm() / wanted.norm() < 0.05
    torch.testing.assert_close(draw.mean(0), 0.5 * statistics.mean(2), rtol=0, atol=0.1)
    assert torch.equal(draw, statistics.sample(2, 50_000, torch.Generator().manual_seed(3), mean_scale=0.5, eps=0.2, shrinkage=0.4))


def test_moving_the_statistics_is_moving_the_features(sample):
    features, labels = sample
    generator = torch.Generator().manual_seed(1)
    matrix, shift = torch.randn(5, 5, generator=generator).double(), torch.randn(5, generator=generator).double()
    moved = features.double() @ matrix.T + shift
    statistics = of(features, labels)
    statistics.apply_linear(matrix, shift)
    same(statistics, of(moved, labels, kinds=FULL))
    some = of(features, labels)
    some.apply_linear(matrix, shift, [0, 2])
    chosen = (labels != 1)[:, None]
    same(some, of(torch.where(chosen, moved, features.double()), labels))
    alone = of(features, labels, kinds=("pooled",))
    with pytest.raises(ValueError, match="cannot be told from the sum"):
        alone.apply_linear(matrix, shift, [0])
    alone.apply_linear(matrix, shift)
    close(alone.pooled_covariance(), of(moved, labels).pooled_covariance())


def test_truncated_to_the_first_dimensions(sample):
    statistics = of(*sample)
    statistics.truncate(3)
    same(statistics, of(sample[0][:, :3], sample[1]))


def test_the_nearest_class_and_of_equal_ones_the_first():
    points = torch.tensor([[0.0], [3.0], [1.0], [-1.0]])
    statistics = of(points, torch.arange(4), kinds=())
    assert statistics.nearest(0, [1, 2]) == 2
    assert statistics.nearest(0, [3, 2, 1]) == 2


def test_subset_stays_as_it_was(sample):
    statistics = of(*sample)
    part = statistics.subset([1])
    mean = part.mean(1).clone()
    statistics.update(*sample)
    assert part.classes == (1,) and part.count(1) * 2 == statistics.count(1)
    assert torch.equal(part.mean(1), mean)
    mine = sample[1] == 1
    close(part.pooled_covariance(), of(sample[0][mine], sample[1][mine]).pooled_covariance())


@pytest.mark.parametrize("kinds", [(), ("pooled",), ("full", "pooled", "diag"), ("low_rank",)])
def test_state_round_trip(sample, kinds):
    statistics, other = ClassStatistics(kinds), ClassStatistics()
    statistics.count_session(0, *sample)
    summary, tensors = statistics.summary(), tensors_of(statistics.moments)
    json.dumps({k: v for k, v in summary.items() if k != "pooled"})
    other.restore(summary, moments_of(tensors))
    assert other.kinds == statistics.kinds and other.sessions == (0,)
    for c in range(3):
        assert other.count(c) == statistics.count(c)
        assert torch.equal(other.mean(c), statistics.mean(c))
        if "full" in kinds or "low_rank" in kinds:
            assert torch.equal(other.covariance(c), statistics.covariance(c))
    if "pooled" in kinds:
        assert torch.equal(other.pooled_scatter(), statistics.pooled_scatter())


def test_statistics_that_features_have_left_are_called_stale(sample, caplog):
    features, labels = sample
    statistics = ClassStatistics(FULL)
    for session, weights in enumerate(["a", "a", "b"]):
        statistics.count_session(session, features, labels + 3 * session, taken_with=weights)
        assert ("statistics of 6 earlier classes were taken: they are stale" in caplog.text) == (session == 2)
    caplog.clear()
    statistics.apply_linear(None, torch.ones(5))
    statistics.count_session(3, features, labels, taken_with="c")
    assert "stale" not in caplog.text
