"""A method and a backbone used a second time, and steps that nobody counts twice."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
from five_runs import METHODS, build, outcome
from growing_adapter import GrowingConfig, GrowingLayer

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Part, Probe, Session
from hf_cl.heads import HEADS, LinearHead
from hf_cl.losses import VirtualOutliers
from hf_cl.methods import lora
from hf_cl.methods.glad import GladSettings, glad
from hf_cl.methods.sara import SaraSettings
from hf_cl.training.loading_check import BareBase


@pytest.mark.parametrize("name", METHODS)
def test_a_method_object_works_twice(name, tmp_path):
    first, second = build(name, tmp_path / "a"), build(name, tmp_path / "b")
    second.method = first.method
    config = asdict(copy.deepcopy(first.method.adapter))
    first.fit()
    assert asdict(first.method.adapter) == config, "the user's config was written into"
    second.fit()
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_backbone_with_an_adapter_inside_is_refused(tmp_path):
    first = build("sara", tmp_path / "a", sessions=1)
    late = build("sara", tmp_path / "b", sessions=1)
    late.backbone = first.backbone
    first.fit()
    with pytest.raises(ValueError, match=r"has an adapter inside already .* Load it anew"):
        ContinualTrainer(
            first.backbone, first.processor, first.method, first.scenario, replace(first.settings, output_dir=str(tmp_path / "c"))
        )
    with pytest.raises(ValueError, match="has an adapter inside already"):  # one that was made before the other was trained
        late.fit()


class Steps(Probe):
    """Counts them, by session."""

    name = "steps"

    def __init__(self) -> None:
        self.counts = {}

    def after_step(self, trainer):
        self.counts[trainer.session.id] = self.counts.get(trainer.session.id, 0) + 1


def test_glad_takes_its_iterations_whatever_the_batch_size(tmp_path):
    """64 images at the default batch size of 128: it used to take 16 steps, counting by 32."""
    steps = Steps()
    trainer = build("glad", tmp_path, sessions=1, probes=[steps], batch_size=TrainingSettings().batch_size)
    trainer.method = glad(adapter=trainer.method.adapter, iterations=6)
    trainer.fit()
    assert steps.counts == {0: 6}  # 18 images are one step an epoch


def test_steps_are_counted_by_the_run(tmp_path):
    trainer = build("ovor", tmp_path, sessions=1, batch_size=4)
    (session,) = trainer.plan.sessions
    assert session.batch_size == 4 and session.steps_per_epoch() == 5 and session.steps_per_epoch(9) == 2
    outliers = VirtualOutliers(k=5, num_offsets=30, num_boundary=6, per_class=10)
    phases = trainer.method.phases
    losses = [next(term for term in phases(session)[-1].losses if not isinstance(term, VirtualOutliers)), outliers]
    trainer.method = replace(trainer.method, phases=lambda now: [*phases(now)[:-1], replace(phases(now)[-1], losses=losses, batch_size=6)])
    slices = []
    trainer.probes.append(
        type("Looks", (Probe,), {"name": "looks", "begin_epoch": lambda self, t, e: slices.append(outliers._slice_size)})()
    )
    trainer.fit()
    assert slices[-1] == 20 // 3  # 20 outliers over the 3 steps of the phase's own batch size


def test_settings_have_one_batch_size():
    assert "batch_size" not in glad.__kwdefaults__
    switch = SaraSettings(epochs=3, batch_size=7).method().parts[0].switch_after
    images = type("Images", (), {"__len__": lambda self: 20})()
    session = Session(0, ("a",), ("a",), images, (), batch_size=5)  # pyright: ignore[reportArgumentType]
    assert switch(session) == 6  # half of 3 epochs of 4 steps, by what the loop says
    assert GladSettings(iterations=9).method().phases(session)[0].epochs == 3
    with pytest.raises(ValueError, match="has no batch_size yet; the loop fills it in"):
        replace(session, batch_size=None).steps_per_epoch()


def test_a_head_that_grows_with_the_data_is_refused_after_session_0(tmp_path, monkeypatch):
    class Neighbours(LinearHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("bank", self.weight.detach()[:0])

        def end_session(self, trainer, session):
            self.bank = trainer.features_of(session.train).features

    monkeypatch.setitem(HEADS, "neighbours", Neighbours)
    trainer = build("ovor", tmp_path, sessions=2)
    trainer.method = replace(trainer.method, adapter=OnePromptConfig(layer_tokens={0: 2}, head={"type": "neighbours"}))
    with pytest.raises(ValueError, match=r"session 0 cannot be loaded again.*bank is floating \[18, 32\]; .* has floating \[0, 32\]"):
        trainer.fit()
    assert not (tmp_path / "adapters" / "session-0").exists()


class Swells(Part):
    """Gives each layer rows that the config knows nothing of."""

    def end_session(self, trainer, session):
        for module in trainer.model.modules():
            if isinstance(module, GrowingLayer):
                module.resize("default", len(session.train))


def test_an_adapter_that_grows_with_the_data_is_refused_after_session_0(tmp_path):
    trainer = build("ovor", tmp_path, sessions=2)
    trainer.method = replace(lora(epochs=1), adapter=GrowingConfig(head={"type": "linear"}), parts=[Swells()])
    with pytest.raises(
        ValueError, match=r"session 0 cannot be loaded again.*growing_shift is floating \[18, 32\]; .* has floating \[1, 32\]"
    ):
        trainer.fit()
    assert not (tmp_path / "adapters" / "session-0").exists() and not (tmp_path / "checkpoints" / "session-0").exists()


def test_the_look_at_the_adapter_changes_nothing_of_the_run(tmp_path, monkeypatch):
    """Neither random draws nor the base: it shares its tensors."""
    build("sara", tmp_path / "with").fit()
    monkeypatch.setattr(BareBase, "refusal", lambda *arguments: None)
    build("sara", tmp_path / "without").fit()
    assert outcome(tmp_path / "with") == outcome(tmp_path / "without")
