"""Evaluation costs the head alone while nothing before it changes."""

from __future__ import annotations

import json

import five_runs
import numpy as np
import pytest
from loop_case import backbone, processor
from stream import Stream

from hf_cl import ContinualTrainer, TrainingSettings
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
