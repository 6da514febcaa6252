"""Kernel ridge regression against reference numbers, on coresets that memories draw, and over sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fitted_heads import run, split_by_class
from torch.nn import functional as F

from hf_cl.heads import build_head
from hf_cl.heads.kernel_fit import kernel_of, left_out_errors, solve_dual
from hf_cl.heads.kernel_ridge import KernelRidgeHead
from hf_cl.heads.prototype import PrototypeHead
from hf_cl.memory import GaussianMemory

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "ridge" / "ridge.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def close(mine, name, tolerance=1e-9):
    wanted = reference(name)
    assert (mine - wanted).abs().max() / wanted.abs().max() < tolerance, name


LAM = float(REFERENCE["lam"])
X, Y, QUERY = reference("features"), reference("labels"), reference("query")
TARGETS = F.one_hot(Y).double()


# Equality
@pytest.mark.parametrize(
    ("kernel", "gamma", "name"),
    [("rbf", float(REFERENCE["rbf_gamma"]), "rbf_logits"), ("laplace", float(REFERENCE["laplace_scale"]), "laplace_logits")],
)
def test_kernels_of_the_reference(kernel, gamma, name):
    alpha = solve_dual(kernel_of(kernel, X, X, gamma), TARGETS, LAM)
    close(kernel_of(kernel, QUERY, X, gamma) @ alpha, name)
    other = "laplace" if kernel == "rbf" else "rbf"
    wrong = kernel_of(other, QUERY, X, gamma) @ solve_dual(kernel_of(other, X, X, gamma), TARGETS, LAM)
    assert (wrong - reference(name)).abs().max() > 0.1


def test_the_linear_kernel_is_ridge_regression():
    alpha = solve_dual(kernel_of("linear", X, X, 1.0), TARGETS, LAM)
    close(alpha, "alpha_dual")
    close(kernel_of("linear", QUERY, X, 1.0) @ alpha, "logits_dual")
    close(X.T @ alpha, "W_after_2")


def test_the_cubic_kernel():
    assert kernel_of("poly", torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), 1.0).tolist() == [[8.0]]


def test_leave_one_out_is_leaving_one_out():
    gram = kernel_of("rbf", X, X, 0.1)
    total = 0.0
    for i in range(len(X)):
        rest = torch.arange(len(X)) != i
        alpha = solve_dual(gram[rest][:, rest], TARGETS[rest], LAM)
        total += float((TARGETS[i] - gram[i, rest] @ alpha).square().sum())
    assert left_out_errors(gram, TARGETS, [LAM, 1e3])[0] == pytest.approx(total / len(X), rel=1e-9)
    linear = kernel_of("linear", X, X, 1.0)  # against the primal form's numbers
    np.testing.assert_allclose(left_out_errors(linear, TARGETS, REFERENCE["loo_lams"].tolist()), REFERENCE["loo_mse"], rtol=1e-7)


# Sessions
ORDER = torch.argsort(Y, stable=True)
SESSIONS = split_by_class(X[ORDER].float(), Y[ORDER], (2, 2, 2))
SMALL = {"latent": 3, "hidden": 8, "epochs": 3}


@pytest.mark.parametrize("settings", [{}, {"memory": "features"}, {"memory": "cvae", "cvae": SMALL}, {"kernel": "laplace"}], ids=str)
def test_a_class_keeps_its_rows_and_a_loaded_head_is_the_same(settings):
    head, early = (KernelRidgeHead(10, 0, coreset_per_class=5, **settings) for _ in range(2))
    run(head, SESSIONS)
    run(early, SESSIONS[:2])
    assert torch.equal(head.coreset[:4], early.coreset)
    assert head.state_dict().keys() == {"coreset", "penalty", "feature_map.center", "feature_map.scale", "weight", "bias"}
    assert not head.state_dict()["weight"].any()  # training rows reach no file
    loaded = KernelRidgeHead(10, 6, coreset_per_class=5, **settings)
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded.eval()(QUERY.float()), head.eval()(QUERY.float()))
    points = head.feature_map(head.coreset.double().flatten(0, 1))
    alpha = solve_dual(
        kernel_of(head.kernel, points, points, head.gamma), F.one_hot(torch.arange(6).repeat_interleave(5)).double(), float(head.penalty)
    )
    wanted = kernel_of(head.kernel, head.feature_map(QUERY), points, head.gamma) @ alpha
    torch.testing.assert_close(head(QUERY.float()).double(), wanted, rtol=0, atol=2e-3)
    assert head.as_linear() is None


def test_real_rows_are_of_their_class():
    head = KernelRidgeHead(10, 0, coreset_per_class=40, memory="features")
    run(head, SESSIONS)
    for label in range(6):
        own = {tuple(row) for row in X[label == Y].float().tolist()}
        kept = [tuple(row) for row in head.coreset[label].tolist()]
        assert set(kept) == own and max(kept.count(row) for row in own) - min(kept.count(row) for row in own) <= 1


def test_a_class_that_comes_again():
    half = torch.arange(len(Y)) % 2 == 0
    parts = [(X[half].float(), Y[half]), (X[~half].float(), Y[~half])]
    twice, once = (KernelRidgeHead(10, 0, lam=0.1) for _ in range(2))
    trainer = run(twice, parts)
    run(once, [(X.float(), Y)])
    assert trainer.statistics.count(3) == 15
    rows = GaussianMemory(trainer.statistics).sample(3, 20, trainer.generator_for("coreset", 3))
    torch.testing.assert_close(twice.coreset[3], rows.float())  # of the Gaussian of both halves
    assert (twice.coreset.mean((0, 1)) - once.coreset.mean((0, 1))).abs().max() < 0.5
    assert "memory 'features' draws" in KernelRidgeHead(10, 0, memory="features").new_classes_only  # so that it is refused before a run
    assert not twice.new_classes_only


def test_a_class_inside_its_first_session_is_judged_by_its_row():
    head = KernelRidgeHead(10, 0, coreset_per_class=5)
    run(head, SESSIONS[:2])
    before = head.eval()(QUERY.float())
    head.grow(["new"])
    after = head.eval()(QUERY.float())
    torch.testing.assert_close(after[:, :4], before)
    torch.testing.assert_close(after[:, 4], F.linear(QUERY.float(), head.weight[4:], head.bias[4:])[:, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "rbff"}, "kernel: input should be 'rbf', 'laplace', 'linear' or 'poly'"),
        ({"coreset_per_class": 0}, "coreset_per_class is a whole number from 1"),
        ({"gamma": 0.0}, "gamma is a positive number"),
        ({"cvae": {"latents": 3}}, r"cvae has no setting 'latents'.*Did you mean 'latent'"),
        ({"cvae": {"lr": 0.0}}, r"cvae.lr is a positive number"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "kernel_ridge", **settings}, 8, 2)


def test_a_singular_system_is_refused():
    with pytest.raises(ValueError, match=r"singular with lam 0: give the head a larger `lam`"):
        solve_dual(torch.ones(3, 3).double(), torch.eye(3).double(), 0.0)


# Mechanism
def curved(seed: int, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten classes with means near each other and covariances of their own, D = 16."""
    shapes = torch.Generator().manual_seed(seed)
    draws = torch.Generator().manual_seed(1000 * seed + per_class)
    rows = []
    for _ in range(10):
        axes = torch.linalg.qr(torch.randn(16, 16, generator=shapes)).Q
        spread = torch.logspace(-1.0, 0.6, 16)[:, None] * axes
        rows.append(0.5 * torch.randn(16, generator=shapes) + torch.randn(per_class, 16, generator=draws) @ spread)
    return torch.cat(rows), torch.arange(10).repeat_interleave(per_class)


def accuracy(head, train, test) -> float:
    run(head, [train])
    return float((head.eval()(test[0]).argmax(1) == test[1]).float().mean())


def test_generated_rows_do_what_real_ones_do():
    found: dict[int | str, list[float]] = {name: [] for name in (2, 10, 50, "real", "round", "means")}
    for seed in range(5):
        train, test = curved(seed, 200), curved(seed, 60)
        for m in (2, 10, 50):
            found[m].append(accuracy(KernelRidgeHead(16, 0, coreset_per_class=m, lam=0.1), train, test))
        found["real"].append(accuracy(KernelRidgeHead(16, 0, coreset_per_class=50, lam=0.1, memory="features"), train, test))
        head = KernelRidgeHead(16, 0, coreset_per_class=50, lam=0.1)  # control: of each class the mean and one variance alone
        noise = torch.randn(train[0].shape, generator=torch.Generator().manual_seed(seed))
        means = torch.stack([train[0][train[1] == c].mean(0) for c in range(10)])
        scale = torch.stack([train[0][train[1] == c].std(0).square().mean().sqrt() for c in range(10)])
        found["round"].append(accuracy(head, (means[train[1]] + scale[train[1], None] * noise, train[1]), test))
        found["means"].append(accuracy(PrototypeHead(16, 0), train, test))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean[2] < mean[10] < mean[50], mean
    assert mean[50] > mean["real"] - 0.02, mean
    assert mean["round"] < mean[50] - 0.02, mean
    assert all(a > b for a, b in zip(found[50], found["means"], strict=True)), mean
