"""PRD's losses against the official classes' numbers, and what they refuse."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from losses.fakes import FakeTrainer, session_of
from torch import nn
from torch.nn import functional as F

from hf_cl.contracts import Context, Outputs, Session
from hf_cl.heads import CosineHead, GaussianHead
from hf_cl.losses import PrototypeLoss, RelationDistillation, SupervisedContrastive
from hf_cl.methods.prd import prd

OLD = 6
"""Classes of the two earlier sessions."""


def close(found, wanted, tolerance=1e-10):
    assert torch.allclose(found.detach(), wanted, rtol=0, atol=tolerance), (found.detach() - wanted).abs().max()


@pytest.fixture(scope="module")
def given():
    with np.load(Path(__file__).parents[1] / "reference" / "prd" / "losses_and_trajectory.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


class Through:
    """A projector of one matrix, as the contrast calls it."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, embedding, role=None):
        return embedding @ self.weight.T


def contrast(temperature, weight, **settings):
    """That of two views, through one matrix."""
    return SupervisedContrastive([], temperature=temperature, projector=Through(weight), **settings)


class Model:
    """The reference's linear encoder and its prototypes, with the three losses on them."""

    def __init__(self, given, **relation):
        self.given = given
        self.encoder = given["encoder"].clone().requires_grad_()
        self.projector = given["projector"].clone().requires_grad_()
        self.head = CosineHead(6, 9, dtype=torch.float64)
        self.before = torch.cat([given[f"prototypes_prev{t}"] for t in range(2)])
        with torch.no_grad():
            self.head.weight.copy_(torch.cat([given[f"prototypes{t}"] for t in range(3)]))
        self.contrast = SupervisedContrastive(
            [], temperature=float(given["supcon_T"]), base_temperature=0.07, projector=Through(self.projector)
        )
        self.prototype, self.relation = PrototypeLoss(), RelationDistillation(**relation)
        trainer = begun(self.relation, self.head, [3, 3, 3])
        self.prototype.begin_session(trainer, trainer.session)
        self.relation.load_state_dict({**self.relation.state_dict(), "before": self.before})

    def context(self, x, y):
        first, second = (x @ self.encoder.T).chunk(2)
        earlier = (x @ self.given["encoder_prev"].T).chunk(2)
        views = tuple(Outputs(f, self.head(f), f) for f in (first, second))
        frozen = [Outputs(f, f, f) for f in earlier]
        batch = {"labels": y.long(), "index": torch.arange(len(y))}
        return Context(batch, views, session_of(9, 3), 0, 0, lambda role, view=-1: frozen[view])

    def gradients(self, loss):
        parameters = [self.encoder, self.projector, self.head.weight]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        names = ("encoder", "projector", "rows")
        return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found, strict=True)}


def begun(relation, head, sizes, features=None):
    """The term in the last of sessions of these sizes, with the trainer that it was begun with."""
    features = torch.zeros(4, head.in_features, dtype=head.weight.dtype) if features is None else features
    for number in range(len(sizes)):
        whole = session_of(sum(sizes[: number + 1]), sizes[number], [0] * len(features))
        trainer = FakeTrainer(head, features, whole)
        trainer.named_parameters = [("vit.lora_A", head.weight)]
        relation.begin_session(trainer, whole)
    return trainer


def wanted(given, kind):
    """Gradients as the file has them: absent is none."""
    shapes = {"encoder": given["encoder"], "projector": given["projector"]}
    found = {name: given.get(f"{kind}.grad.{name}", torch.zeros_like(p)) for name, p in shapes.items()}
    rows = [given.get(f"{kind}.grad.prototypes{t}", torch.zeros(3, 6, dtype=torch.float64)) for t in range(3)]
    return found | {"rows": torch.cat(rows)}


KINDS = {
    "supcon": lambda m, ctx: m.contrast(ctx),
    "prototype": lambda m, ctx: m.prototype(ctx),
    "relation": lambda m, ctx: m.relation(ctx),
    "total": lambda m, ctx: m.contrast(ctx) + 2 * m.prototype(ctx) + 4 * m.relation(ctx),
}
VALUES = {"supcon": "supcon", "prototype": "prototype_loss", "relation": "relation_kl"}


@pytest.mark.parametrize("kind", KINDS)
def test_official_values_and_gradients(given, kind):
    model = Model(given)
    loss = KINDS[kind](model, model.context(given["x_views"], given["y"]))
    if kind in VALUES:
        close(loss, given[VALUES[kind]])
    for name, gradient in model.gradients(loss).items():
        close(gradient, wanted(given, kind)[name])


def test_over_samples(given):
    model = Model(given, axis="sample")
    loss = model.relation(model.context(given["x_views"], given["y"]))
    close(loss, given["relation_kl_sample_axis"])
    for name, gradient in model.gradients(loss).items():
        close(gradient, wanted(given, "relation_sample_axis")[name])


def test_features_and_cosines(given):
    model = Model(given)
    features = given["x_views"] @ model.encoder.T
    close(features, given["features"])
    cosines = model.head(features) / model.head.scale
    close(cosines, given["logits_class_incremental"])
    close(cosines[:, :3], given["logits_session0"])
    without = contrast(0.1, model.projector)(model.context(given["x_views"], given["y"]))
    close(without, given["supcon_without_base_temperature"])


def test_official_trajectory(given):
    """Five steps under the method's own optimizer."""
    model = Model(given)
    encoder, rows = nn.Parameter(model.encoder.detach()), model.head.weight
    model.encoder, projector = encoder, nn.Parameter(model.projector.detach())
    model.contrast._projector = (Through(projector),)
    rates = given["traj_lr"].tolist()
    method = prd(epochs=1, learning_rate=rates[0], prototype_lr=rates[1])
    named = [("vit.lora_A", encoder), ("losses.supervised_contrastive.projector.0.weight", projector), ("head.weight", rows)]
    optimizer, schedule = method.optimizer(session_of(9, 3), named)
    for step in range(5):
        for group, rate in zip(optimizer.param_groups, schedule(0, step), strict=True):
            group["lr"] = rate
        loss = KINDS["total"](model, model.context(given["traj_x"][step], given["traj_y"][step]))
        close(loss, given["traj_loss"][step], 1e-9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(encoder, given["traj_end.encoder"], 1e-9)
    close(projector, given["traj_end.projector"], 1e-9)
    close(rows, torch.cat([given[f"traj_end.prototypes{t}"] for t in range(3)]), 1e-9)


def relation_of(given, sizes, **settings):
    """The term over the six earlier rows cut into sessions of these sizes, and its value on the reference's batch."""
    model = Model(given)
    model.relation = RelationDistillation(**settings)
    begun(model.relation, model.head, [*sizes, 3])
    model.relation.load_state_dict({**model.relation.state_dict(), "before": model.before})
    return model.relation(model.context(given["x_views"], given["y"])).item()


def by_hand(given, sizes, axis):
    f, e = given["x_views"] @ given["encoder"].T, given["x_views"] @ given["encoder_prev"].T
    before = torch.cat([given[f"prototypes_prev{t}"] for t in range(2)])
    rows = torch.cat([given[f"prototypes{t}"] for t in range(2)])
    total, first = 0.0, 0
    for size in sizes:
        span = slice(first, first + size)
        p, q = ((a @ F.normalize(b[span], dim=1).T) for a, b in ((e, before), (f, rows)))
        dim = 1 if axis == "class" and size > 1 else 0
        kl = (p.softmax(dim) * (p.log_softmax(dim) - q.log_softmax(dim))).sum(dim)
        total, first = total + kl.mean().item(), first + size
    return total


@pytest.mark.parametrize("axis", ["class", "sample"])
@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (4, 1, 1), (6,)])
def test_sessions_of_any_size(given, sizes, axis):
    assert relation_of(given, sizes, axis=axis) == pytest.approx(by_hand(given, sizes, axis), abs=1e-12)
    mean = relation_of(given, sizes, axis=axis, reduce="mean")
    assert mean == pytest.approx(by_hand(given, sizes, axis) / len(sizes), abs=1e-12)


def test_nothing_moved_is_nothing_lost(given):
    model = Model(given)
    model.given = {**given, "encoder_prev": model.encoder.detach()}
    model.relation.load_state_dict({**model.relation.state_dict(), "before": model.head.weight[:OLD].detach().clone()})
    loss = model.relation(model.context(given["x_views"], given["y"]))
    assert abs(loss.item()) < 1e-14 and all(g.abs().max() < 1e-14 for g in model.gradients(loss).values())


def test_rows_and_features_of_length_zero_are_finite(given):
    model = Model(given)
    with torch.no_grad():
        model.head.weight[0] = 0
        model.head.weight[7] = 0
        model.encoder[:, 0] = 0
    x = given["x_views"].clone()
    x[0] = 0
    loss = KINDS["total"](model, model.context(x, given["y"]))
    assert loss.isfinite() and all(g.isfinite().all() for g in model.gradients(loss).values())


def test_classes_of_an_adapter_that_a_run_starts_from_are_one_session(given):
    """No session was heard of before."""
    head = CosineHead(6, 9, dtype=torch.float64)
    relation = RelationDistillation()
    trainer = FakeTrainer(head, torch.zeros(4, 6), session_of(9, 3, [6] * 4))
    trainer.named_parameters = [("vit.lora_A", head.weight)]
    relation.begin_session(trainer, trainer.session)
    assert relation._bounds() == [0, 6]
    known = Session(2, trainer.session.class_names, (), trainer.session.train, ())
    relation.begin_session(trainer, known)  # the same classes again: all are earlier ones
    assert relation._bounds() == [0, 6, 9]


def test_what_it_says_before_a_session(caplog):
    head = CosineHead(4, 5)
    with torch.no_grad():
        head.weight.copy_(torch.eye(5, 4))
    with caplog.at_level(logging.INFO):
        begun(RelationDistillation(weight=1.0), head, [3, 2], features=20 * torch.eye(4)[:3])
    assert "holds 1 earlier ones, at the weight 1" in caplog.text and "raise the temperature" in caplog.text
    caplog.clear()
    begun(RelationDistillation(temperature=100.0), head, [1, 2, 2], features=20 * torch.eye(4)[:3])
    assert "sessions of one class" in caplog.text and "temperature" not in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelationDistillation(temperature=0.0), "temperature must be positive"),
        (lambda: RelationDistillation(axis="rows"), "axis must be"),
        (lambda: RelationDistillation(reduce="max"), "reduce must be"),
        (lambda: SupervisedContrastive([], base_temperature=0.0), "base_temperature must be positive"),
        (lambda: PrototypeLoss().begin_session(SimpleNamespace(head=GaussianHead(4, 2)), session_of(2, 2)), "cosine"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
