"""Evaluation in full batches over all tests of a session."""

import math

import numpy as np
import pytest
import torch
from loop_case import build

from hf_cl.metrics import SessionCounts
from hf_cl.training.evaluation import evaluate_session, scored


@pytest.fixture
def trained(tmp_path):
    """After three sessions; tests of 8 images, batches of 5."""
    trainer = build(tmp_path / "run", dropout=0.0, eval_batch_size=5)
    trainer.fit()
    return trainer


def separate_forwards(trainer):
    """Logits and labels of each test, in forwards of its own images alone."""
    trainer.classifier.eval()
    found = []
    for test in trainer.session.tests:
        pixels = trainer.processor([test.data[i]["image"] for i in range(len(test.data))], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            found.append((trainer.classifier.outputs(pixels).logits, np.asarray(test.data.labels)))
    return found


def test_batches_are_full_and_every_image_comes_once(trained):
    batches = list(scored(trained.classifier, trained.images, trained.session, trained.accelerator))
    sizes = [len(test.data) for test in trained.session.tests]
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 4] and math.ceil(sum(sizes) / 5) == 5
    places = [place for batch in batches for place in zip(batch.tests.tolist(), batch.positions.tolist(), strict=True)]
    assert places == [(test, position) for test, size in enumerate(sizes) for position in range(size)]


def test_logits_and_counts_are_those_of_separate_forwards(trained):
    """Logits up to rounding, which depends on how many rows a matrix product has."""
    separate, counts = separate_forwards(trained), SessionCounts(trained.model.peft_config["default"].classes_per_session)
    trained.classifier.train()
    together = list(scored(trained.classifier, trained.images, trained.session, trained.accelerator))
    assert trained.classifier.training  # the mode comes back
    logits, labels = np.concatenate([batch.scores for batch in together]), np.concatenate([batch.labels for batch in together])
    np.testing.assert_allclose(logits, torch.cat([own for own, _ in separate]).numpy(), rtol=0, atol=2e-6 * np.abs(logits).max())
    assert labels.tolist() == np.concatenate([own for _, own in separate]).tolist()
    for test, (own, true) in enumerate(separate):
        counts.add(test, own.numpy(), true)
    counted, _ = evaluate_session(
        trained.classifier, trained.images, trained.session, trained.model.peft_config["default"].classes_per_session, trained.accelerator
    )
    assert counted.record() == counts.record() and counted.confusion.tolist() == counts.confusion.tolist()
