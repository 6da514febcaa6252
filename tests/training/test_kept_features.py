"""Evaluation costs the head alone while nothing before it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import five_runs
import numpy as np
import pytest
import torch
from loop_case import backbone, processor
from stream import Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part, is_head
from hf_cl.methods import linear_probe, lora, nearest_class_mean
from hf_cl.training.evaluation import scored
from hf_cl.training.kept_features import KeptFeatures


def trainer_of(folder, method, sessions=3, **settings):
    values = {"batch_size": 8, "eval_batch_size": 5, "cpu": True, "augmentation": "none", **settings}
    run = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(0.0), processor(), method, Stream(sessions), run, quiet=True)


def images_through(trainer):
    """Counts the images that the backbone sees."""
    seen = []
    trainer.backbone.vit.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def test_a_frozen_backbone_sees_every_picture_once(tmp_path):
    trainer = trainer_of(tmp_path, nearest_class_mean(), sessions=4)
    seen = images_through(trainer)
    trainer.fit()
    assert sum(seen) == 4 * (18 + 8)  # training and test images of four sessions


@pytest.mark.parametrize("method", [nearest_class_mean, partial(linear_probe, epochs=2)])
def test_probes_look_at_a_frozen_backbone_once(tmp_path, method):
    """At every step and in every session: the test images of a session go through the backbone once more, for all measurements."""
    seen = {}
    for probed in (False, True):
        trainer = trainer_of(tmp_path / str(probed), method(), stability_every=1 if probed else None)
        seen[probed] = images_through(trainer)
        results = trainer.fit()
    assert sum(seen[True]) == sum(seen[False]) + 3 * 8
    ends = [trace[-1] for trace in results.continual.traces]
    assert ends == pytest.approx(results.accuracy_matrix[-1])


class MovesTheAdapter(Part):
    """What a hook may do: no optimizer knows of it."""

    def after_step(self, trainer):
        with torch.no_grad():
            next(p for name, p in trainer.named_parameters if "lora_B" in name).add_(0.05)


def head_only(method, *parts):
    """The method, whose phases train the head on images."""
    phases = lambda session: [replace(phase, trainable=is_head) for phase in method.phases(session)]  # noqa: E731
    return replace(method, phases=phases, parts=[*method.parts, *parts])


def test_what_a_hook_moves_is_seen(tmp_path):
    """An adapter that rests in the phase: features stay, unless a hook moves it."""
    seen, ends = {}, {}
    for name, parts in (("rests", ()), ("moves", (MovesTheAdapter(),))):
        trainer = trainer_of(tmp_path / name, head_only(lora(epochs=1), *parts), sessions=2, stability_every=1)
        seen[name] = images_through(trainer)
        results = trainer.fit()
        ends[name] = [trace[-1] for trace in results.continual.traces]
        assert ends[name] == pytest.approx(results.accuracy_matrix[-1])
    training, looks = 2 * 18, 8 + 16
    assert sum(seen["rests"]) == training + 8 + 8 + 2 * 8  # evaluation keeps its own features, each test once; so does the probe
    assert sum(seen["moves"]) == training + looks + 3 * 8 + 3 * 16  # evaluation, and the probe after each of three steps


@pytest.mark.parametrize("method", [nearest_class_mean, lambda: linear_probe(epochs=1)])
def test_logits_are_those_of_whole_forwards_up_to_rounding(tmp_path, method):
    trainer = trainer_of(tmp_path, method())
    trainer.fit()
    kept = KeptFeatures(trainer.images)
    arguments = trainer.classifier, trainer.images, trainer.session, trainer.accelerator
    whole, heads = list(scored(*arguments)), list(scored(*arguments, kept))
    again = list(scored(*arguments, kept))
    for found in (heads, again):
        assert np.concatenate([b.labels for b in found]).tolist() == np.concatenate([b.labels for b in whole]).tolist()
        assert np.concatenate([b.positions for b in found]).tolist() == np.concatenate([b.positions for b in whole]).tolist()
        expected = np.concatenate([b.scores for b in whole])
        np.testing.assert_allclose(np.concatenate([b.scores for b in found]), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert all(len(batch.labels) <= 5 for batch in heads)


def test_an_adapter_that_trains_is_evaluated_by_whole_forwards(tmp_path):
    trainer = trainer_of(tmp_path, lora(epochs=1))
    seen = images_through(trainer)
    trainer.fit()
    assert sum(seen) == 3 * 18 + 8 + 16 + 24


def test_text_heads_too(tmp_path):
    """The texts of the classes change with the prompts, and so does the digest; without training, neither."""
    trainer = five_runs.build("cpe_clip", tmp_path, sessions=2)
    trainer.fit()
    arguments = trainer.classifier, trainer.images, trainer.session, trainer.accelerator
    whole = np.concatenate([b.scores for b in scored(*arguments)])
    heads = np.concatenate([b.scores for b in scored(*arguments, KeptFeatures(trainer.images))])
    np.testing.assert_allclose(heads, whole, rtol=0, atol=2e-6 * np.abs(whole).max())


def test_a_resumed_run_has_the_bits_of_the_whole_one(tmp_path):
    trainer_of(tmp_path / "whole", nearest_class_mean()).fit()
    trainer_of(tmp_path / "resumed", nearest_class_mean(), sessions=2).fit()
    trainer_of(tmp_path / "resumed", nearest_class_mean(), resume="auto").fit()
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "resumed")]
    for results in found:
        del results["times"], results["memory"]
    assert found[0] == found[1]
    assert (tmp_path / "whole/examples.json").read_text() == (tmp_path / "resumed/examples.json").read_text()
