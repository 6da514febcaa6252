"""PRD in a run: what trains at which rate, rows that begin as class means, the same bits after a resume."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_runs import Run, build
from resumed import check_same_adapters, killed_and_resumed
from safetensors.torch import load_file
from torch import nn

from hf_cl.contracts import Probe
from hf_cl.methods import PrdSettings, prd

SMALL = Run(partial(prd, epochs=1, r=4, projector=(16, 8)))


class Watch(Probe):
    """Head rows before the first step of each session and after its end, and what the terms keep."""

    name = "watch"

    def __init__(self):
        self.begun, self.ended, self.kept, self.means = [], [], [], []

    def begin_session(self, trainer, session):
        self.begun.append(trainer.head.weight.detach().clone())
        data = trainer.features_of(session.train)
        self.means.append(torch.stack([data.features[data.labels == label].mean(0) for label in session.own]))

    def end_session(self, trainer, session):
        self.ended.append((trainer.head.weight.detach().clone(), trainer.head.scale.item()))
        relation = trainer.method.parts[-1]
        self.kept.append((relation._bounds(), relation._before.clone()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, watch = tmp_path_factory.mktemp("prd"), Watch()
    trainer = build(SMALL, folder / "run", folder, sessions=3, probes=[watch])
    return folder, watch, trainer.fit(), trainer


def test_rows_begin_as_means_and_earlier_ones_are_held(whole):
    _, watch, _, _ = whole
    for session, (begun, means) in enumerate(zip(watch.begun, watch.means, strict=True)):
        torch.testing.assert_close(begun[2 * session :], means)
    assert [bounds for bounds, _ in watch.kept] == [[0, 0], [0, 2], [0, 2, 4]]
    for (_, before), begun in zip(watch.kept[1:], watch.begun[1:], strict=True):
        assert torch.equal(before, begun[: len(before)])


def test_all_rows_train_and_the_scale_rests(whole):
    _, watch, _, _ = whole
    for begun, (ended, scale) in zip(watch.begun, watch.ended, strict=True):
        assert (begun != ended).any(1).all() and scale == 16.0


def test_the_projector_stays_behind(whole):
    folder, _, _, trainer = whole
    saved = load_file(folder / "run/adapters/session-2/adapter_model.safetensors")
    assert not any("losses" in name or "projector" in name for name in saved)
    assert trainer.method.parts[0]._states == {}  # no role of another method's


@pytest.mark.parametrize("session", [0, 1, 2])
def test_killed_and_resumed_to_the_bit(whole, tmp_path, session):
    folder, _, results, theirs = whole
    again = killed_and_resumed(partial(build, SMALL, tmp_path, folder, sessions=3), session)
    assert again.results.results.accuracy_matrix == results.accuracy_matrix
    check_same_adapters(tmp_path, folder / "run")
    mine, other = again.method.parts[0], theirs.method.parts[0]
    assert all(torch.equal(a, b) for a, b in zip(mine.layers.parameters(), other.layers.parameters(), strict=True))


class Session:
    """What phases and optimizer ask of a session."""

    def __init__(self, number):
        self.id = number


def test_rates_and_phases():
    method = prd(epochs=4, base_epochs=6, learning_rate=0.1, prototype_lr=0.03)
    names = ("vit.lora_A", "head.weight", "head.scale", "losses.supervised_contrastive.projector.layers.0.weight")
    named = [(name, nn.Parameter(torch.zeros(1))) for name in names]
    (base,), (later,) = method.phases(Session(0)), method.phases(Session(1))
    assert (base.epochs, later.epochs) == (6, 4)
    assert [term.name for term in base.losses] == ["supervised_contrastive", "prototype"]
    assert [term.name for term in later.losses] == ["supervised_contrastive", "prototype", "relation_distillation"]
    assert [name for name in names if not later.trainable(name)] == ["head.scale"]
    for session, last in ((0, 5), (1, 3)):
        optimizer, schedule = method.optimizer(Session(session), named)
        assert [list(group["params"]) for group in optimizer.param_groups] == [[named[0][1], named[3][1]], [named[1][1]]]
        assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.9, 1e-4), (0.0, 0.0)]
        assert schedule(0, 0) == [0.1, 0.03] and 0 < schedule(last, 0)[0] < 0.03


def test_settings():
    made = PrdSettings(output_dir="x", dataset="d", backbone="b", projector=[]).method()
    assert [type(part).__name__ for part in made.parts] == ["Prototypes", "RelationDistillation"]
    with pytest.raises(ValueError, match="loss_scope: prd has no cross-entropy"):
        PrdSettings(output_dir="x", dataset="d", backbone="b", loss_scope="seen")
