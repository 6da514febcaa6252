"""An adapter that chooses by the untouched tower asks it once for each test image of a run, and once for a batch of several updates."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from loop_case import backbone, processor
from stream import AgainStream, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part
from hf_cl.methods import CodaPromptSettings, DualPromptSettings, HyperLoraSettings, L2PSettings, MvpSettings
from hf_cl.training.evaluation import scored
from hf_cl.training.kept_queries import KeptQueries

POOLS = {
    "l2p": lambda **more: L2PSettings(epochs=1, pool_size=4, top_k=2, e_tokens=2, **more).method(),
    "dualprompt": lambda **more: DualPromptSettings(epochs=1, e_layers=[2], e_tokens=2, g_tokens=2, **more).method(),
    "coda_prompt": lambda **more: CodaPromptSettings(epochs=1, e_layers=[0], components_per_session=2, **more).method(),
    "mvp": lambda **more: MvpSettings(pool_size=3, e_tokens=2, e_layers=[1], g_layers=[0], **more).method(),
    "hyper_lora": lambda **more: HyperLoraSettings(epochs=1, r=2, hidden_size=4, embedding_dim=4, **more).method(),
}
TRAIN, TEST = 18, 8
"""Images of a session."""


def trainer_of(folder, name, sessions=3, stream=None, **settings):
    values = {"batch_size": 9, "eval_batch_size": 8, "cpu": True, "augmentation": "none", **settings}
    run = TrainingSettings(output_dir=str(folder), **values)
    method = POOLS[name]() if isinstance(name, str) else name
    return ContinualTrainer(backbone(0.0), processor(), method, stream or Stream(sessions), run, quiet=True)


def passes(trainer):
    """Counts images by whose pass they were in: [with a prompt or LoRA, without]."""
    counted = [0, 0]

    def ran(module, args):
        counted[trainer.tuner.query_pass()._inside] += len(args[0])

    trainer.backbone.vit.embeddings.register_forward_pre_hook(ran)
    return counted


@pytest.mark.parametrize("name", POOLS)
def test_a_test_image_is_asked_for_once_in_a_run(name, tmp_path):
    """By its own forwards it is seen after every session; a batch of several updates is asked for once."""
    trainer = trainer_of(tmp_path, name)
    counted = passes(trainer)
    trainer.fit()
    updates = 3 if name == "mvp" else 1
    means = 3 * TRAIN if name == "hyper_lora" else 0  # queries of a session's images, of which its classes' means are made
    asked = 3 * TEST + means if name == "hyper_lora" else 3 * (TEST + TRAIN)  # in training it knows the session
    assert counted == [3 * updates * TRAIN + (1 + 2 + 3) * TEST, asked]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    trainer = trainer_of(tmp_path_factory.mktemp("kept") / "run", "l2p", sessions=2)
    trainer.fit()
    return trainer


def logits(trainer, queries, size):
    trainer.images.settings.eval_batch_size = size
    found = scored(trainer.classifier, trainer.images, trainer.session, trainer.accelerator, queries=queries)
    return np.concatenate([batch.scores for batch in found])


@pytest.mark.parametrize(("size", "equal"), [(8, True), (4, True), (6, False)])
def test_the_same_batch_has_the_same_bits(trained, size, equal):
    """Batches of 8 and 4 hold images of one test; in those of 6 two tests meet, whose queries come of batches of 6 and 2."""
    kept = KeptQueries(trained.images, trained.classifier, trained.tuner.query_pass())
    whole, told = logits(trained, None, size), logits(trained, kept, size)
    np.testing.assert_allclose(told, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
    if equal:
        assert np.array_equal(told, whole) and np.array_equal(logits(trained, kept, size), whole)


def test_the_queries_are_those_of_the_base_alone(trained):
    kept = KeptQueries(trained.images, trained.classifier, trained.tuner.query_pass())
    logits(trained, kept, 8)
    for (_, kind), (dataset, rows) in kept._tests.items():
        pixels = next(iter(trained.images.test_batches([dataset]))).values["pixel_values"]
        with torch.no_grad():
            wanted = backbone(0.0).eval().vit(pixels).last_hidden_state[:, 0]
        assert kind == "output" and torch.equal(rows, wanted)


def test_a_resumed_run_has_the_bits_of_the_whole_one(tmp_path):
    """Though it asks for the queries of all tests so far when its first evaluation comes; batches of 5 mix the tests."""
    trainer_of(tmp_path / "whole", "l2p", sessions=2, eval_batch_size=5).fit()
    trainer_of(tmp_path / "resumed", "l2p", sessions=1, eval_batch_size=5).fit()
    trainer_of(tmp_path / "resumed", "l2p", sessions=2, eval_batch_size=5, resume="auto").fit()
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "resumed")]
    for results in found:
        del results["times"], results["memory"]
    assert found[0] == found[1]
    assert (tmp_path / "whole/examples.json").read_text() == (tmp_path / "resumed/examples.json").read_text()


def test_a_cache_on_disk_serves_the_next_run(tmp_path):
    counts = []
    for number in range(2):
        trainer = trainer_of(tmp_path / str(number), "l2p", sessions=2, feature_cache=str(tmp_path / "cache"), seed=number)
        counted = passes(trainer)
        trainer.fit()
        counts.append(counted[1])
    assert counts == [2 * (TRAIN + TEST), 2 * TRAIN]


def test_a_probe_that_looks_at_known_tests_does_not_ask(tmp_path):
    """After each of a session's two steps and at its end: tests of earlier sessions are known, its own are asked for each time."""
    trainer = trainer_of(tmp_path, "l2p", sessions=2, stability_every=1)
    counted = passes(trainer)
    trainer.fit()
    assert counted[1] == 2 * (TRAIN + TEST) + 2 * 3 * TEST


class Twice(Part):
    """Looks at the step's images again, and at others."""

    def after_step(self, trainer):
        (ctx,) = trainer.contexts
        pixels = ctx.batch["pixel_values"]
        before = trainer.outputs_of(pixels).logits
        assert torch.equal(trainer.outputs_of(pixels.clone()).logits, before)
        pixels.mul_(-1)
        assert not torch.equal(trainer.outputs_of(pixels).logits, before)


def test_pixels_that_were_written_to_are_asked_for_anew(tmp_path):
    method = POOLS["coda_prompt"]()
    trainer = trainer_of(tmp_path, replace(method, parts=[*method.parts, Twice()]), sessions=1)
    counted = passes(trainer)
    trainer.fit()
    assert counted[1] == 3 * TRAIN + TEST  # the step and its repetition share a pass


def test_a_session_without_test_images(tmp_path):
    results = trainer_of(tmp_path, "l2p", stream=AgainStream(train=3, test=2)).fit()
    assert results.test_counts == [4, 4, 0, 4]
