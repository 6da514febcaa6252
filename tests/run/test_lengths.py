"""Lengths that make no sense are refused before training; 0 epochs train nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from loop_case import build
from stream import Images, Stream

from hf_cl.contracts import Phase, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods import METHODS, glad, lora
from hf_cl.run import parse_settings


@pytest.mark.parametrize(
    ("method", "setting"),
    [("lora", "epochs"), ("ovor", "vor_epochs"), ("coact", "incremental_epochs"), ("cpe_clip", "session_epochs"), ("sara", "epochs")],
)
def test_negative_epochs_are_refused_by_their_name(method, setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 0, got -1"):
        parse_settings(METHODS[method], method, [f"--{setting}", "-1"])


def test_negative_rates_and_sizes_are_refused_by_their_names_at_once():
    flags = ["--learning_rate", "-1", "--weight_decay", "-0.1", "--classes_per_session", "0", "--epochs", "-1"]
    with pytest.raises(ValueError, match="at least") as refused:
        parse_settings(METHODS["lora"], "lora", flags)
    assert sorted(str(refused.value).splitlines()) == [
        "classes_per_session must be at least 1, got 0.",
        "epochs must be at least 0, got -1.",
        "learning_rate must be at least 0, got -1.0.",
        "weight_decay must be at least 0, got -0.1.",
    ]


@pytest.mark.parametrize("lengths", [{"iterations": 0}, {"session_iterations": 0}, {"session_iterations": -5}])
def test_no_iterations_are_refused(lengths):
    with pytest.raises(ValueError, match="must be at least 1"):
        glad(**lengths)


def test_no_epochs_train_nothing(tmp_path):
    trainer = build(tmp_path, sessions=2)
    trainer.method = lora(epochs=0)
    assert [session.trained for session in trainer.fit().sessions] == [False, False]


def test_a_phase_of_fewer_than_no_epochs_is_refused_before_training(tmp_path):
    trainer = build(tmp_path, sessions=1)
    trainer.method = replace(lora(), phases=lambda session: [Phase("backwards", -2, [MaskedCrossEntropy()], everything)])
    with pytest.raises(ValueError, match="Phase 'backwards' of session 0 has -2 epochs"):
        trainer.fit()


class Gap(Stream):
    """Session 1 brings class 3 without a training image."""

    def __iter__(self):
        for session in super().__iter__():
            yield session if session.id != 1 else replace(session, train=Images(np.array([2, 2, 2]), first_index=1000))


def test_a_class_without_training_images_is_refused_before_any_session(tmp_path, monkeypatch):
    monkeypatch.setattr("loop_case.Stream", Gap)
    with pytest.raises(ValueError, match="Session 1 brings the class 'class 3' and no training image of it; leave"):
        build(tmp_path).fit()
