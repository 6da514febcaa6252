"""How often whole data sets go through the backbone: tests once per session, features of a phase once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from speed_runs import METHODS, build, record, record_of

from hf_cl.contracts import Method, Phase
from hf_cl.images import pixels
from hf_cl.images.decode import open_position
from hf_cl.methods import linear_probe, nearest_class_mean, ovor
from hf_cl.probes import StabilityProbe

TRAIN, TEST = 24, 8
"""Images of a session."""


@pytest.mark.parametrize("kind", METHODS)
def test_every_test_image_is_seen_once_per_session(kind):
    """All accuracies come from the same logits. CoACT also reads its shots once, for the prototypes."""
    extra = TRAIN if kind == "ASYNC_LORA" else 0
    assert record_of(kind).images == [extra + TEST, extra + 2 * TEST, extra + 3 * TEST]


@pytest.mark.parametrize(("refresh", "passes"), [("phase", 1), ("epoch", 5)])
def test_features_of_a_phase_are_computed_once_or_once_per_epoch(refresh, passes, tmp_path):
    method = linear_probe(epochs=5)
    plain = method.phases
    method = Method(**{**vars(method), "phases": lambda session: [Phase(**{**vars(p), "refresh": refresh}) for p in plain(session)]})
    trainer = build("ONE_PROMPT", tmp_path, method=method)
    assert record(trainer).images == [passes * TRAIN + TEST] * 2  # features of earlier tests are kept


def test_prototypes_cost_one_pass(tmp_path):
    trainer = build("ONE_PROMPT", tmp_path, method=nearest_class_mean())
    assert record(trainer).images == [TRAIN + TEST] * 2  # features of earlier tests are kept


def test_every_image_is_decoded_once(tmp_path, monkeypatch):
    """Over epochs, phases and sessions, for training, features and tests."""
    decoded = Counter()
    monkeypatch.setattr(pixels, "open_position", lambda data, p: decoded.update([int(data.indices[p])]) or open_position(data, p))
    method = ovor(epochs=2, vor_epochs=1, layer_tokens={0: 2})
    build("ONE_PROMPT", tmp_path, sessions=3, method=replace(method, adapter=replace(method.adapter, head={"type": "prototype"}))).fit()
    assert set(decoded.values()) == {1} and len(decoded) == 3 * (TRAIN + TEST)


def test_the_stability_probe_decodes_nothing(tmp_path, monkeypatch):
    decoded = Counter()
    monkeypatch.setattr(pixels, "open_position", lambda data, p: decoded.update([int(data.indices[p])]) or open_position(data, p))
    monkeypatch.setattr(StabilityProbe.__init__, "__defaults__", (5,))  # of 8 test images of a session
    build("ONE_PROMPT", tmp_path, sessions=2, method=ovor(epochs=2, vor_epochs=0, layer_tokens={0: 2}), stability_every=1).fit()
    assert set(decoded.values()) == {1} and len(decoded) == 2 * (TRAIN + TEST)


def test_pixels_of_all_sessions_share_one_budget(tmp_path):
    """What does not fit is decoded again, so that memory does not grow with the number of sessions, and no number changes."""
    budget = 22 * 32 * 32 * 3
    trainer = build("ONE_PROMPT", tmp_path, sessions=3, method=nearest_class_mean(), image_memory=budget)
    results = trainer.fit()
    assert 0 < trainer.images.store.num_bytes <= budget
    whole = build("ONE_PROMPT", tmp_path / "whole", sessions=3, method=nearest_class_mean())
    assert whole.fit().accuracy_matrix == results.accuracy_matrix
