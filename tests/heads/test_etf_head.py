"""The fixed frame and dot regression against reference numbers; the geometry that they bring about; growth, assignment, what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_heads import FakeTrainer, session_of
from torch import nn
from torch.nn import functional as F

from hf_cl.heads import LinearHead, build_head
from hf_cl.heads.etf import ETFHead, frame_of
from hf_cl.losses import DotRegression

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "etf" / "etf.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def plain(num_classes: int, total: int, width: int, **settings) -> ETFHead:
    return ETFHead(width, num_classes, num_classes_total=total, projector="none", **settings)


def gram_of(total: int) -> torch.Tensor:
    return torch.eye(total) * (1 + 1 / (total - 1)) - 1 / (total - 1)


def loss_of(head: ETFHead, features: torch.Tensor, labels: torch.Tensor, **settings) -> torch.Tensor:
    term = DotRegression(**settings)
    term.begin_session(SimpleNamespace(head=head), None)  # pyright: ignore[reportArgumentType]
    batch = {"labels": labels, "index": torch.arange(len(labels))}
    context = SimpleNamespace(features=features, embedding=head.embed(features), labels=labels, batch=batch)
    return term.weight * term(context)  # pyright: ignore[reportArgumentType, reportOperatorIssue]


def test_the_frame_of_the_reference():
    frame = frame_of(reference("uniform"))
    torch.testing.assert_close(frame.float(), reference("etf"), rtol=0, atol=2e-7)
    torch.testing.assert_close(frame.float().T @ frame.float(), reference("gram"), rtol=0, atol=3e-7)
    for total, width in ((2, 2), (10, 32), (100, 128), (300, 300)):
        ours = plain(0, total, width).frame
        torch.testing.assert_close(ours.T @ ours, gram_of(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("balanced", "loss", "grad"), [(False, "loss", "grad"), (True, "loss_with_len", "grad_with_len")])
def test_losses_of_the_reference(balanced, loss, grad):
    head = plain(7, 7, 12)
    head.frame.copy_(reference("etf"))
    features = reference("features").requires_grad_()
    weight = 1.0 if balanced else float(REFERENCE["loss_weight"])
    value = loss_of(head, features, reference("labels"), balanced=balanced, weight=weight)
    torch.testing.assert_close(value, reference(loss).to(value.dtype), rtol=1e-6, atol=1e-6)
    value.backward()
    torch.testing.assert_close(features.grad, reference(grad), rtol=0, atol=1e-6)
    assert not head.frame.requires_grad


def test_scores_of_the_classes_so_far():
    head = plain(0, 7, 12, logit_scale=3.0)
    head.frame.copy_(reference("etf"))
    head.grow("abcde"[: int(REFERENCE["seen"])])
    torch.testing.assert_close(head(reference("features")) / 3, reference("scores_seen"), rtol=0, atol=1e-6)


def test_growth_moves_no_bit():
    torch.manual_seed(0)
    head = ETFHead(12, 3, num_classes_total=9)
    features = torch.randn(5, 12)
    before, weights = head(features), head.state_dict()["projector.0.weight"].clone()
    head.grow(["d", "e", "f"])
    assert torch.equal(head(features)[:, :3], before) and torch.equal(head.state_dict()["projector.0.weight"], weights)
    assert torch.equal(torch.cat(head.logits_and_embedding(features), 1), torch.cat([head(features), head.embed(features)], 1))
    other = ETFHead(12, 6, num_classes_total=9, etf_seed=5)  # a file holds the frame, since a QR of another machine may differ
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(features), head(features))


def spread(kind: str, seed: int) -> float:
    """Of six classes with 100 samples and four with 5: standard deviation of the cosines of centred class means in the embedding."""
    torch.manual_seed(seed)
    labels = torch.arange(10).repeat_interleave(torch.tensor([100] * 6 + [5] * 4))
    centers = torch.randn(10, 16)
    features = centers[labels] + 0.5 * torch.randn(len(labels), 16)
    head = ETFHead(16, 10, num_classes_total=10)
    parameters = [*head.projector.parameters()]
    linear = LinearHead(16, 10)
    if kind == "linear":
        parameters += linear.parameters()
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = loss_of(head, features, labels) if kind == "etf" else F.cross_entropy(linear(head.project(features)), labels)
        loss.backward()
        optimizer.step()
    embedded = (head.embed(features) if kind == "etf" else head.project(features)).detach()
    means = torch.stack([embedded[labels == c].mean(0) for c in range(10)])
    cosines = F.normalize(means - means.mean(0), dim=1) @ F.normalize(means - means.mean(0), dim=1).T
    return float(cosines[~torch.eye(10, dtype=torch.bool)].std())


@pytest.mark.parametrize("seed", range(2))
def test_class_means_of_uneven_classes_become_equiangular(seed):
    assert spread("etf", seed) < 0.5 * spread("linear", seed)


def test_greedy_assignment_takes_the_nearest_free_columns():
    head = plain(0, 6, 8, assignment="greedy")
    trainer = FakeTrainer(head)
    wanted = [4, 1, 3, 0]
    frame = head.frame.T
    for session, first in enumerate((0, 2)):
        names = [str(c) for c in range(first + 2)]
        head.grow(names[first:])
        labels = torch.arange(first, first + 2).repeat_interleave(3)
        features = frame[torch.tensor(wanted)[labels]] + 0.01 * torch.randn(6, 8)
        head.begin_session(trainer, session_of(session, names, 2, features, labels))  # pyright: ignore[reportArgumentType]
    assert head.columns.tolist() == wanted and head.free_columns().tolist() == [2, 5]
    assert head(frame[torch.tensor(wanted)]).argmax(1).tolist() == [0, 1, 2, 3]


def test_features_of_length_zero_are_counted(caplog):
    head = plain(2, 4, 8).train()
    value = loss_of(head, torch.zeros(3, 8), torch.zeros(3, dtype=torch.long), weight=1.0)
    assert value == 0.5 and head(torch.zeros(1, 8)).abs().sum() == 0
    with caplog.at_level(logging.WARNING):
        head.end_session(SimpleNamespace(), SimpleNamespace(id=0))  # pyright: ignore[reportArgumentType]
    assert "4 times in session 0 an image's projected features were zero" in caplog.text


def test_mixed_features_lie_between_both_targets():
    head = plain(4, 4, 8)
    term = DotRegression(1.0, feature_mixup=1.0)
    term.begin_session(SimpleNamespace(head=head, generator_for=lambda *key: torch.Generator().manual_seed(1)), None)  # pyright: ignore[reportArgumentType]
    features, labels = head.frame.T.clone(), torch.arange(4)
    about = {"session": SimpleNamespace(id=0), "step": 0, "batch": {"index": torch.tensor([7, 3, 9, 1])}}
    context = SimpleNamespace(features=features, embedding=head.embed(features), labels=labels, **about)
    generator = torch.Generator().manual_seed(1)
    torch.rand((), generator=generator)
    by_id = torch.tensor([3, 1, 0, 2])
    order = torch.empty(4, dtype=torch.long)
    order[by_id] = by_id[torch.rand(4, generator=generator).argsort()]  # whatever order the batch has
    assert (order != torch.arange(4)).any()
    cosines = F.normalize((features + features[order]) / 2, dim=1) @ head.frame
    wanted = ((cosines[labels, labels] - 1) ** 2 + (cosines[labels, order] - 1) ** 2).mean() / 4
    torch.testing.assert_close(term(context), wanted)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs num_classes_total"),
        ({"num_classes_total": 1}, "num_classes_total is a whole number from 2"),
        ({"num_classes_total": 20, "out_dim": 16}, "embedding of at least that width, and this one is 16 wide"),
        ({"num_classes_total": 20, "projector": "none"}, "this one is 8 wide"),
        ({"num_classes_total": 4, "projector": "none", "out_dim": 9}, "leave out_dim 9 out"),
        ({"num_classes_total": 4, "projector": "mamba"}, "projector"),
        ({"num_classes_total": 4, "assignment": "nearest"}, "assignment"),
        ({"num_classes_total": 2}, "there would be 3 classes; give the head num_classes_total for all of them"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "etf", **settings}, 8, 3)


def test_another_head_is_refused_by_the_loss():
    with pytest.raises(ValueError, match="fixed vectors of a head of type etf, not of a Linear"):
        DotRegression().begin_session(SimpleNamespace(head=nn.Linear(2, 2)), None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="a share of the steps"):
        DotRegression(feature_mixup=2.0)
