"""The logistic head over sessions: what it is fitted to, what it keeps, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fitted_heads import run, split_by_class

from hf_cl.heads import build_head
from hf_cl.heads.feature_frame import FeatureFrame, ranges_of
from hf_cl.heads.held_back import fold_of, held_back
from hf_cl.heads.logistic import LogisticHead
from hf_cl.heads.logistic_fit import CrossEntropy, Objective, Rows
from hf_cl.heads.prototype import PrototypeHead

SHAPES = torch.Generator().manual_seed(7)
MEANS = 1.2 * torch.randn(6, 12, generator=SHAPES)
MIXING = torch.eye(12) + 0.4 * torch.randn(12, 12, generator=SHAPES)


def draw(per_class, seed):
    labels = torch.arange(6).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 12, generator=torch.Generator().manual_seed(seed)) @ MIXING
    return MEANS[labels] + noise, labels


X, Y = draw(30, 0)
TEST, TEST_LABELS = draw(100, 1)
SESSIONS = split_by_class(X, Y, (2, 2, 2))
QUICK = {"draws_per_class": 40}


def accuracy(head):
    return float((head.eval()(TEST).argmax(1) == TEST_LABELS).float().mean())


def fitted(sessions=SESSIONS, **settings) -> LogisticHead:
    head = LogisticHead(12, 0, **{**QUICK, **settings})
    run(head, sessions)
    return head


@pytest.fixture(scope="module")
def learned():
    return fitted(groups="bands")


def test_sessions_cost_little_against_all_images_at_once(learned):
    together, means = accuracy(fitted([(X, Y)])), PrototypeHead(12, 0)
    run(means, SESSIONS)
    assert accuracy(learned) > together - 0.03
    assert accuracy(learned) > accuracy(means)
    assert learned.log_decay.shape == (len(ranges_of(12, "bands")),) and learned.log_decay.isfinite().all()


def test_one_session_with_one_decay_is_the_optimum_of_its_images():
    head = fitted([(X, Y)], decay=0.05, tolerance=1e-6)
    rows = Rows(X.double(), Y, torch.full((len(X),), 1 / len(X), dtype=torch.float64))
    frame = FeatureFrame.of(rows)
    problem = Objective(frame.rows(rows), torch.zeros(12, dtype=torch.int64), 6, bias=True)
    v = frame.inside(head.fitted_weight.double(), head.fitted_bias.double(), True)
    gradient = problem.value_and_gradient(v, torch.tensor([0.05], dtype=torch.float64).log())[1]
    assert gradient.norm() < 1e-5  # float32 of the weights
    assert CrossEntropy(frame.rows(rows), 6, bias=True).loss(v) < 1.0
    turned = fitted([(X, Y)], decay=0.05, groups="bands", tolerance=1e-6)  # one decay for all bands: turning changes nothing
    torch.testing.assert_close(turned.fitted_weight, head.fitted_weight, rtol=0, atol=1e-5)


def test_blocks_find_the_same_fit_and_l1_exact_zeros():
    settings: Any = {"decay": 0.05, "tolerance": 1e-5}
    torch.testing.assert_close(fitted(solver="blocks", **settings).fitted_weight, fitted(**settings).fitted_weight, rtol=0, atol=2e-5)
    sparse = fitted([(X, Y)], solver="blocks", l1=0.02, **settings)
    zeros = float((sparse.fitted_weight == 0).float().mean())
    assert 0.2 < zeros < 0.9 and accuracy(sparse) > 0.5


def test_a_loaded_head_is_the_same_and_a_linear_layer(learned):
    assert learned.state_dict().keys() == {"fitted_weight", "fitted_bias", "log_decay"}
    loaded = LogisticHead(12, 6, groups="bands")
    loaded.load_state_dict(learned.state_dict())
    assert torch.equal(loaded.eval()(TEST), learned.eval()(TEST))
    linear = learned.as_linear()
    assert linear is not None
    torch.testing.assert_close(linear(TEST), learned(TEST))


def test_old_rows_stay_without_a_memory_and_are_fitted_anew_with_one(learned):
    alone = fitted(SESSIONS[:2], memory="none")
    before = alone.fitted_weight[:2].clone()
    run_on = fitted(memory="none")
    assert torch.equal(run_on.fitted_weight[:2], before)
    with_one = fitted(SESSIONS[:2]).fitted_weight[:2]
    assert not torch.equal(with_one, fitted().fitted_weight[:2])
    assert accuracy(learned) > accuracy(run_on)
    with pytest.raises(ValueError, match=r"Session 1 brings one class, and with `memory: none`"):
        fitted(split_by_class(X, Y, (5, 1)), memory="none")


def test_a_class_that_comes_again_is_fitted_to_both_parts():
    half = torch.arange(len(Y)) % 2 == 0
    head = LogisticHead(12, 0, draws_per_class=40)
    trainer = run(head, [(X[half], Y[half]), (X[~half], Y[~half])])
    assert trainer.statistics.count(3) == 30
    assert accuracy(head) > accuracy(fitted([(X, Y)])) - 0.03


def test_few_images_judge_in_turn_and_one_image_cannot():
    few = [(rows[::10], labels[::10]) for rows, labels in SESSIONS]
    assert accuracy(fitted(few)) > 1 / 3
    single = [(rows[::30], labels[::30]) for rows, labels in SESSIONS]
    assert fitted(single).log_decay[0] == -4.0  # where it starts
    first = fitted([(X[:30], Y[:30])])
    assert torch.equal(first.fitted_weight, torch.zeros(1, 12))  # one class: the optimum


def test_folds_are_even_in_each_class_and_the_first_is_about_what_is_held_back():
    labels, index = torch.tensor([0] * 11 + [1] * 5), torch.arange(16) * 7
    folds = fold_of(labels, index, 0, 1)
    assert torch.bincount(folds[:11]).tolist() == [3, 2, 2, 2, 2] and sorted(folds[11:].tolist()) == [0, 1, 2, 3, 4]
    assert (folds[held_back(labels, index, 0, 1)] <= 1).all()
    order = torch.randperm(16)
    assert torch.equal(fold_of(labels[order], index[order], 0, 1), folds[order])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 0.0}, r"decay is learn, grid or a number from 0\.0005 to 109"),  # separable data have no optimum without
        ({"decay": [0.1, 0.2]}, r"decay has 2 numbers, and there are 1 groups"),
        ({"groups": [[0, 4], [5, 8]]}, r"ranges that follow each other from 0 to the features' width of 8"),
        ({"groups": [[0, 4]]}, r"ranges that follow each other"),
        ({"l1": 0.1}, r"l1 needs `solver: blocks`"),
        ({"l1": 0.1, "solver": "blocks"}, r"l1 needs a number for decay"),
        ({"solver": "newton"}, r"solver: input should be 'lbfgs' or 'blocks'"),
        ({"tolerance": 0}, r"tolerance is a number from 1e-8"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "logistic", **settings}, 8, 2)


def test_blocks_refuse_features_whose_matrix_would_be_too_large():
    with pytest.raises(ValueError, match=r"solver blocks makes a matrix of 9000 x 9000"):
        LogisticHead(9000, 2, solver="blocks", device="meta")


def test_bands_and_ranges():
    assert ranges_of(192, "bands")[:2] == [(0, 2), (2, 4)] and ranges_of(192, "bands")[-1] == (100, 192)
    assert ranges_of(3, "bands") == [(0, 1), (1, 2), (2, 3)] and ranges_of(4, [[0, 1], [1, 4]]) == [(0, 1), (1, 4)]


def test_a_column_that_never_changes_counts_for_nothing():
    head = fitted([(torch.cat([X[:, :11], torch.ones(len(X), 1)], 1), Y)], decay=0.1)
    assert head.fitted_weight.isfinite().all() and not head.fitted_weight[:, 11].any()
