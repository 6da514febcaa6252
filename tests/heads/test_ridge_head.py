"""Ridge regression against reference numbers, over sessions, under maps, with and without balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fitted_heads import run, split_by_class

from hf_cl.heads import build_head
from hf_cl.heads.ridge import RidgeHead
from hf_cl.heads.ridge_fit import Sums, best_penalty, left_out_error, solve
from hf_cl.memory import ClassStatistics

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "ridge" / "ridge.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def close(mine, name, tolerance=1e-9):
    wanted = reference(name)
    assert mine.shape == wanted.shape
    assert (mine - wanted).abs().max() / wanted.abs().max() < tolerance, name


def statistics_of(rows, labels) -> ClassStatistics:
    statistics = ClassStatistics({"pooled", "full"})
    statistics.update(rows, labels)
    return statistics


LAM = float(REFERENCE["lam"])
X, Y, QUERY = reference("features"), reference("labels"), reference("query")


@pytest.mark.parametrize("session", range(3))
def test_sums_over_sessions(session):
    statistics = ClassStatistics({"pooled"})
    for i in range(session + 1):
        mine = reference("session") == i
        statistics.count_session(i, X[mine], Y[mine])
    sums = Sums.of(statistics, 2 * session + 2, balanced=False)
    close(sums.gram, f"gram_after_{session}")
    weight, bias = solve(sums, LAM, bias=False)
    close(weight.T, f"W_after_{session}")
    close(QUERY @ weight.T + bias, f"logits_after_{session}")
    weight, bias = solve(sums, LAM, bias=True)
    close(torch.cat([weight.T, bias[None]]), f"W_bias_after_{session}")
    close(QUERY @ weight.T + bias, f"logits_bias_after_{session}")


def test_leave_one_out_in_closed_form():
    sums = Sums.of(statistics_of(X, Y), 6, balanced=False)
    errors = torch.tensor([left_out_error(sums, lam, X, Y, bias=False) for lam in REFERENCE["loo_lams"]], dtype=torch.float64)
    close(errors, "loo_mse")
    assert best_penalty(sums, REFERENCE["loo_lams"].tolist(), X, Y, bias=False) == REFERENCE["loo_best"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_leave_one_out_is_leaving_one_out(bias, balanced):
    rows, labels = X[reference("balanced_index")], Y[reference("balanced_index")]
    counts = labels.bincount().double()
    weights = (counts.sum() / len(counts) / counts)[labels] if balanced else torch.ones(len(labels), dtype=torch.float64)
    targets = torch.nn.functional.one_hot(labels).double()
    design = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1) if bias else rows
    penalty = LAM * torch.eye(design.shape[1], dtype=torch.float64)
    if bias:
        penalty[-1, -1] = 0
    total = 0.0
    for i in range(len(rows)):
        rest = torch.arange(len(rows)) != i
        z, w = design[rest], weights[rest, None]
        fit = torch.linalg.solve(z.T @ (w * z) + penalty, z.T @ (w * targets[rest]))
        total += float((targets[i] - design[i] @ fit).square().sum())
    sums = Sums.of(statistics_of(rows, labels), 6, balanced=balanced)
    mine = left_out_error(sums, LAM, rows, labels, bias=bias, weights=weights)
    assert mine == pytest.approx(total / len(rows), rel=1e-8)


def test_balanced_classes():
    rows, labels = X[reference("balanced_index")], Y[reference("balanced_index")]
    weight, _ = solve(Sums.of(statistics_of(rows, labels), 6, balanced=True), LAM, bias=False)
    close(weight.T, "balanced_W")


@pytest.mark.parametrize("kind", ["rff", "relu"])
def test_maps_of_the_reference(kind):
    head = RidgeHead(10, 0, lam=LAM, bias=False, class_balance=False, feature_map=kind, map_dim=24, dtype=torch.float64)
    if kind == "rff":
        head.feature_map.weight.copy_(reference("rff_omega"))
        head.feature_map.phase.copy_(reference("rff_phase"))
    else:
        head.feature_map.weight.copy_(reference("relu_projection").T)
    weight, _ = solve(Sums.of(statistics_of(head.feature_map(X), Y), 6, balanced=False), LAM, bias=False)
    close(head.feature_map(QUERY) @ weight.T, f"{kind}_logits")


SETTINGS = [{}, {"class_balance": False}, {"feature_map": "relu", "map_dim": 30}, {"feature_map": "rff", "map_dim": 30, "bias": False}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sessions_add_up_and_a_loaded_head_is_the_same(settings):
    order = torch.argsort(Y, stable=True)
    features, labels = X[order][:-5].float(), Y[order][:-5]  # the last class has fewer images
    heads = [RidgeHead(10, 0, lam=0.3, **settings, dtype=torch.float64) for _ in range(2)]
    first = labels < 2
    run(heads[0], [(features[first], labels[first]), (features[~first], labels[~first])])
    run(heads[1], split_by_class(features, labels, (2, 2, 1, 1)))
    a, b = (head.eval()(features.double()) for head in heads)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    loaded = RidgeHead(10, 6, lam=0.3, **settings, dtype=torch.float64)
    loaded.load_state_dict(heads[0].state_dict())
    assert torch.equal(loaded.eval()(features.double()), a)
    linear = heads[0].as_linear()
    assert (linear is None) == ("feature_map" in settings)
    if linear is not None:
        torch.testing.assert_close(linear(features.double()), a)


def test_the_penalty_is_chosen_and_classes_are_found():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(10)
    features = 4 * torch.randn(8, 20, generator=generator)[labels] + torch.randn(80, 20, generator=generator)
    head = RidgeHead(20, 0)
    run(head, split_by_class(features, labels, (4, 4)))
    assert (head.eval()(features).argmax(1) == labels).all()


def test_a_class_that_comes_again_is_merged_or_refused():
    half = torch.arange(len(Y)) % 2 == 0
    parts = [(X[half].float(), Y[half]), (X[~half].float(), Y[~half])]
    twice, once = (RidgeHead(10, 0, lam=0.3, dtype=torch.float64) for _ in range(2))
    run(twice, parts)
    run(once, [(X.float(), Y)])
    torch.testing.assert_close(twice.eval()(QUERY), once.eval()(QUERY), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=r"come again.*class_balance: false"):
        run(RidgeHead(10, 0, feature_map="relu", map_dim=30), parts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": -1.0}, "lam is loo or a number from 0"),
        ({"feature_map": "rbf"}, "feature_map: input should be 'none', 'rff' or 'relu'"),
        ({"bias": "yes"}, "bias must be true or false"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "ridge", **settings}, 8, 2)


def test_a_singular_system_is_refused():
    with pytest.raises(ValueError, match=r"singular with lam 0: give the head a larger `lam`"):
        solve(Sums.of(statistics_of(X[:6], torch.arange(6)), 6, balanced=False), 0.0, bias=False)
