"""Marks: what a run has to beat, measured beside it on the same images, in one pass and none where the run has made it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from stream import Stream
from test_kept_features import images_through, trainer_of

from hf_cl.contracts import Test
from hf_cl.methods import frozen, lora, nearest_class_mean
from hf_cl.results.comparison import compare
from hf_cl.results.results import Results
from hf_cl.results.saved_run import read_run
from hf_cl.training.marks import MARKS

MEANS, GAUSSIAN = (MARKS[word][0] for word in ("means", "gaussian"))
BOTH = ["means", "gaussian"]


def accuracy(folder, method):
    return trainer_of(folder, method).fit().metrics["final_accuracy"]


def test_marks_are_the_runs_of_those_methods_to_the_digit(tmp_path):
    trainer = trainer_of(tmp_path / "lora", lora(epochs=1), marks=BOTH)
    seen = images_through(trainer)
    found = trainer.fit().comparisons
    assert found == {MEANS: accuracy(tmp_path / "m", nearest_class_mean()), GAUSSIAN: accuracy(tmp_path / "g", frozen())}
    assert sum(seen) == 3 * 18 + (8 + 16 + 24) + 3 * (18 + 8)  # training, evaluation, and each picture once without the adapter
    assert Results.load(tmp_path / "lora" / "results.json").comparisons == found
    assert trainer.finish({"another": 0.5}).comparisons == found | {"another": 0.5}
    assert all(name in (tmp_path / "lora" / "README.md").read_text() for name in (MEANS, GAUSSIAN, "another"))


@pytest.mark.parametrize("method", [frozen, nearest_class_mean])
def test_where_nothing_lies_before_the_head_no_picture_is_looked_at_twice(tmp_path, method):
    trainer = trainer_of(tmp_path, method(), marks=BOTH)
    seen = images_through(trainer)
    results = trainer.fit()
    assert sum(seen) == 3 * (18 + 8)
    assert results.comparisons[GAUSSIAN if method is frozen else MEANS] == results.metrics["final_accuracy"]


def test_the_run_is_the_same_with_and_without_them(tmp_path):
    plain, marked = (trainer_of(tmp_path / str(i), lora(epochs=1), marks=marks) for i, marks in enumerate(([], BOTH)))
    assert plain.fit().accuracy_matrix == marked.fit().accuracy_matrix and plain.results.results.comparisons == {}


def test_a_resumed_run_has_them_too_and_a_finished_one_keeps_them(tmp_path):
    folder = tmp_path / "cut"
    trainer_of(tmp_path / "whole", nearest_class_mean(), marks=BOTH).fit()
    trainer_of(folder, nearest_class_mean(), sessions=2).fit()
    found = trainer_of(folder, nearest_class_mean(), resume="auto", marks=BOTH).fit().comparisons
    assert found == Results.load(tmp_path / "whole" / "results.json").comparisons
    again = trainer_of(folder, nearest_class_mean(), resume="auto", marks=BOTH)
    seen = images_through(again)
    assert again.fit().comparisons == found and not seen


def test_images_that_are_gone_leave_the_marks_out(tmp_path, caplog):
    trainer_of(tmp_path, nearest_class_mean(), sessions=1).fit()
    going_on = trainer_of(tmp_path, nearest_class_mean(), sessions=2, resume="auto", marks=BOTH)
    going_on.plan.sessions[0].train.labels = going_on.plan.sessions[0].train.labels[:9]
    with caplog.at_level(logging.WARNING):
        assert going_on.fit().comparisons == {}
    assert "The marks means, gaussian are left out: images of session 0 are gone." in caplog.text


class Halves(Stream):
    """Its test lets one class compete."""

    def __iter__(self):
        for session in super().__iter__():
            yield replace(session, tests=(Test("base", session.tests[0].data, (0,)),))


def test_tests_with_candidates_of_their_own_have_no_marks(tmp_path, monkeypatch):
    monkeypatch.setattr("test_kept_features.Stream", Halves)
    with pytest.raises(ValueError, match="tests of this protocol have candidates of their own: leave marks out"):
        trainer_of(tmp_path, nearest_class_mean(), sessions=1, marks=["means"])


def test_compare_has_a_row_for_each_mark(tmp_path):
    for seed in range(2):
        trainer_of(tmp_path / str(seed), nearest_class_mean(), marks=BOTH, seed=seed).fit()
    compared = compare([read_run(tmp_path / str(seed)) for seed in range(2)])
    assert {f"mark: {MEANS}", f"mark: {GAUSSIAN}"} <= set(compared.metrics)
    spread = compared.groups[0].metric(f"mark: {MEANS}")
    assert spread is not None and spread.mean == compared.groups[0].metric("final_accuracy").mean
