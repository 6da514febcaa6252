"""CoACT's projection head: layers, what trains it, its roles, its resume."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from coact_reference import arrays
from device_runs import POOLER, Run, build, late_coact
from resumed import check_same_adapters, killed_and_resumed
from safetensors.torch import load_file
from torch.nn.functional import linear

from hf_cl.contracts import Probe
from hf_cl.losses import Projector, supervised_contrastive

COACT = Run(partial(late_coact, POOLER, incremental_train="classifier+lora", projector=(16, 8), encoder_lr_factor=0.5))


class Watch(Probe):
    """The projector before and after each session, and its average after each step."""

    name = "watch"

    def __init__(self):
        self.begun, self.ended, self.teachers, self.students = [], [], [], []

    def begin_session(self, trainer, session):
        self.projector = trainer.method.parts[-1]
        self.begun.append(self.projector._now())
        self.named = [name for name, p in trainer.named_parameters]

    def after_step(self, trainer):
        if trainer.session.id == 0:
            self.teachers.append({name: t.clone() for name, t in self.projector._states["teacher"].items()})
            self.students.append(self.projector._now())

    def end_session(self, trainer, session):
        self.ended.append(self.projector._now())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, watch = tmp_path_factory.mktemp("run"), Watch()
    trainer = build(COACT, folder / "out", folder, probes=[watch])
    trainer.fit()
    return trainer, watch, folder


def test_it_trains_in_session_0_alone(run):
    _, watch, folder = run
    assert {name: list(t.shape) for name, t in watch.begun[0].items()} == {
        "0.weight": [16, 32], "0.bias": [16], "2.weight": [8, 16], "2.bias": [8]
    }  # fmt: skip
    assert all(not torch.equal(watch.begun[0][name], watch.ended[0][name]) for name in watch.begun[0])
    assert all(torch.equal(watch.ended[0][name], watch.ended[1][name]) for name in watch.begun[0])
    assert not any(name.startswith("losses.") for name in watch.named)  # of session 1
    saved = load_file(folder / "out/adapters/session-1/adapter_model.safetensors")
    assert not any("projector" in name or "losses" in name for name in saved)


def test_its_roles(run):
    _, watch, _ = run
    states, start, last = watch.projector._states, watch.begun[0], watch.ended[0]
    for name in start:
        average = start[name]
        for student, teacher in zip(watch.students, watch.teachers, strict=True):
            average = torch.lerp(average, student[name], 1 - watch.projector.decay)
            assert torch.allclose(teacher[name], average, atol=1e-7)
        assert torch.equal(states["pretrained"][name], start[name]) and torch.equal(states["base"][name], last[name])
        assert torch.equal(states["base_teacher"][name], watch.teachers[-1][name])


def test_a_resumed_run_ends_with_the_same_bytes(run, tmp_path):
    _, watch, folder = run
    for session in (0, 1):
        out = tmp_path / str(session)
        again = killed_and_resumed(partial(build, COACT, out, folder), session)
        check_same_adapters(out, folder / "out")
        mine, theirs = again.method.parts[-1], watch.projector
        assert all(torch.equal(mine._states[role][name], t) for role, ts in theirs._states.items() for name, t in ts.items())
        assert all(torch.equal(a, b) for a, b in zip(mine.layers.parameters(), theirs.layers.parameters(), strict=True))


def test_the_contrast_through_it_in_official_numbers():
    """Projecting before is projecting inside: with the identity as its one layer the official contrast of two views comes out."""
    first, second = arrays()["supcon_2v_features"].unbind(1)
    projector = Projector((first.shape[1],))
    projector._build(first.shape[1])
    with torch.no_grad():
        projector.layers[0].weight.copy_(torch.eye(first.shape[1]))
        projector.layers[0].bias.zero_()
    projector._states["teacher"] = projector._now()
    views = [projector(first), projector(second, "teacher")]
    loss = supervised_contrastive(views, arrays()["supcon_2v_labels"])
    assert abs(float(loss.detach() - arrays()["supcon_2v_loss"])) < 1e-5
    assert views[0].requires_grad and not views[1].requires_grad


def test_layers_as_written_out():
    torch.manual_seed(0)
    projector, x = Projector([5, 3]), torch.randn(4, 6)
    projector._build(6)
    a, b = projector.layers[0], projector.layers[2]
    assert torch.equal(projector(x), linear(linear(x, a.weight, a.bias).relu(), b.weight, b.bias))


@pytest.mark.parametrize("widths", [(), (0,), (8.5,), 128, "128"])
def test_widths_are_checked(widths):
    with pytest.raises(ValueError, match="projector must be a list of widths"):
        Projector(widths)
