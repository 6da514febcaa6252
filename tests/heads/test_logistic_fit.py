"""Logistic regression against reference numbers, and what its certificate and its learned decays promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hf_cl.heads.learned_decay import Fold, hypergradient, learn, search
from hf_cl.heads.logistic_blocks import Blocks, solve_blocks
from hf_cl.heads.logistic_fit import CrossEntropy, Objective, Rows, solve

REFERENCE = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "reference" / "logistic_head" / "logistic.npz").items()
}
THETA, W = REFERENCE["theta"], REFERENCE["W"]


def rows_of(x, labels):
    return Rows(x, labels, torch.full((len(x),), 1 / len(x), dtype=torch.float64))


def objective():
    return Objective(rows_of(REFERENCE["X"], REFERENCE["labels"]), torch.arange(5), 3, bias=False)


def fold():
    return Fold(objective(), CrossEntropy(rows_of(REFERENCE["X_val"], REFERENCE["labels_val"]), 3, bias=False))


# Equality
def test_the_optimum_its_loss_and_the_hypergradient():
    both = fold()
    fit = solve(both.train, THETA, both.train.loss.start(), 1e-10)
    assert fit.distance <= 1e-10
    torch.testing.assert_close(fit.v, W, rtol=0, atol=1e-8)
    assert both.train.value_and_gradient(fit.v, THETA)[0] == pytest.approx(float(REFERENCE["objective"]), abs=1e-10)
    assert both.judge.loss(fit.v) == pytest.approx(float(REFERENCE["validation_loss"]), abs=1e-10)
    exact = hypergradient(both, fit.v, THETA, 1e-12)[0]
    torch.testing.assert_close(exact, REFERENCE["hypergradient"], rtol=0, atol=1e-8)
    early = hypergradient(both, REFERENCE["W_after_12_blocks"], THETA, 1e-12)[0]
    torch.testing.assert_close(early, REFERENCE["inexact_hypergradient"], rtol=0, atol=1e-8)
    assert (early - exact).abs().max() == pytest.approx(7e-4, rel=0.1)
    assert (exact / THETA.exp() - exact).abs().max() > 0.5  # without the factor exp(theta)


def test_greedy_blocks_step_by_step():
    blocks = Blocks(objective(), THETA, torch.zeros(5, 3, dtype=torch.float64))
    for step in range(12):
        scores, before = blocks.scores(), blocks.value()
        torch.testing.assert_close(scores, REFERENCE["block_scores"][step], rtol=0, atol=1e-10)
        assert before == pytest.approx(float(REFERENCE["block_objectives"][step]), abs=1e-10)
        label = int(scores.argmax())
        assert label == REFERENCE["blocks"][step]
        blocks.update(label)
        assert before - blocks.value() >= scores[label] - 1e-15  # the decrease that is sure
    torch.testing.assert_close(blocks.v, REFERENCE["W_after_12_blocks"], rtol=0, atol=1e-10)
    bound = objective().certify(blocks.v, THETA).distance
    assert bound == pytest.approx(float(REFERENCE["distance_bound"]), rel=1e-9)
    assert bound >= (blocks.v - W).norm() == pytest.approx(float(REFERENCE["distance"]), rel=1e-8)


@pytest.mark.parametrize("rule", ["greedy", "cyclic"])
def test_blocks_reach_the_optimum(rule):
    fit = solve_blocks(objective(), THETA, torch.zeros(5, 3, dtype=torch.float64), 1e-9, rule=rule)
    torch.testing.assert_close(fit.v, W, rtol=0, atol=1e-8)


def test_zeros_of_l1_are_exact():
    nothing = torch.full((5,), -30.0, dtype=torch.float64)  # the reference has no decay beside l1
    fit = solve_blocks(objective(), nothing, torch.zeros(5, 3, dtype=torch.float64), 1e6, l1=float(REFERENCE["l1"]), most=100)
    torch.testing.assert_close(fit.v, REFERENCE["W_l1"], rtol=0, atol=1e-7)
    assert torch.equal(fit.v == 0, REFERENCE["W_l1"] == 0) and (fit.v == 0).sum() == 7


def test_the_certificate_holds_where_a_bias_has_no_decay():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64) + 3  # off centre: the bias matters
    problem = Objective(rows_of(x, torch.arange(60) % 3), torch.zeros(4, dtype=torch.int64), 3, bias=True)
    theta = torch.tensor([-2.0], dtype=torch.float64)
    best = solve(problem, theta, problem.loss.start(), 1e-7)
    assert best.distance <= 1e-7
    for tolerance in (1.0, 0.1, 0.01):
        fit = solve(problem, theta, problem.loss.start(), tolerance)
        assert (fit.v[:4] - best.v[:4]).norm() <= fit.distance <= tolerance
    assert problem.value_and_gradient(best.v, theta)[1][4].abs().max() < 1e-10


def test_the_hypergradient_is_that_of_finite_differences_over_two_groups_with_a_bias():
    groups = torch.tensor([0, 0, 1, 1, 1])
    train = Objective(rows_of(REFERENCE["X"], REFERENCE["labels"]), groups, 3, bias=True)
    judge = CrossEntropy(rows_of(REFERENCE["X_val"], REFERENCE["labels_val"]), 3, bias=True)
    theta = torch.tensor([-2.0, -1.0], dtype=torch.float64)
    start = solve(train, theta, train.loss.start(), 1e-10)
    found = hypergradient(Fold(train, judge), start.v, theta, 1e-12)[0]
    for group in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[group] = 1e-3
        up, down = (judge.loss(solve(train, theta + sign * step, start.v, 1e-9).v) for sign in (1, -1))
        assert float(found[group]) == pytest.approx((up - down) / 2e-3, abs=2e-6)


# Mechanism
def digits_beside_noise(seed):
    """64 columns of digits and 64 of noise: 150 rows to train on, 100 to judge, 1,547 to test."""
    generator = torch.Generator().manual_seed(seed)
    data = load_digits()
    x, labels = torch.from_numpy(data.data).double(), torch.from_numpy(data.target).long()
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-9)
    x = torch.cat([x, torch.randn(x.shape, generator=generator, dtype=torch.float64)], 1)
    order = torch.randperm(len(x), generator=generator)
    return [(x[part], labels[part]) for part in (order[:150], order[150:250], order[250:])]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_groups_do_what_a_grid_cannot(seed):
    train, judge, test = digits_beside_noise(seed)
    found = {}
    for name, groups in (("grid", torch.zeros(128)), ("one", torch.zeros(128)), ("two", torch.arange(128) // 64)):
        both = Fold(Objective(rows_of(*train), groups.long(), 10, bias=True), CrossEntropy(rows_of(*judge), 10, bias=True))
        start, count = [both.train.loss.start()], int(groups.max()) + 1
        theta = torch.full((count,), -4.0, dtype=torch.float64)
        found[name] = search([both], 1, start, 1e-2) if name == "grid" else learn([both], theta, start)
    judged = CrossEntropy(rows_of(*test), 10, bias=True)
    right = {name: float(((judged.z @ one.fits[0].v).argmax(1) == test[1]).double().mean()) for name, one in found.items()}
    assert right["two"] > right["grid"] + 0.02, right
    assert found["two"].theta[0] < found["two"].theta[1] - 1  # noise decays more
    assert found["one"].loss < 1.02 * found["grid"].loss and found["one"].steps <= 15


def test_a_decay_stays_in_its_range():
    both = fold()
    only_noise = Fold(both.train, CrossEntropy(rows_of(REFERENCE["X_val"], (REFERENCE["labels_val"] + 1) % 3), 3, bias=False))
    found = learn([only_noise], torch.full((5,), 3.5, dtype=torch.float64), [only_noise.train.loss.start()])
    assert found.theta.max() <= 4.0
