import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from example_results import example_results
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_cl.metrics import CalibrationBins, SessionCounts
from hf_cl.results.history import FILE, History, brought_up_to_date, read_lines
from hf_cl.results.results import Results
from hf_cl.results.results_json import text_of


def filled(path, sessions=3):
    """A history of sessions of two classes, ten test images each."""
    rng, history = np.random.default_rng(0), History(path)
    for t in range(sessions):
        counts = SessionCounts([2] * (t + 1))
        for j in range(t + 1):
            labels = np.repeat([2 * j, 2 * j + 1], 5)
            counts.add(j, rng.normal(size=(10, 2 * t + 2)), labels)
        bins = asdict(CalibrationBins.of(rng.random(10 * t + 10), rng.random(10 * t + 10) < 0.5))
        record = {"id": t, "new_class_names": [f"ä{t}", f"b{t}"], "num_train": 9, "num_test": 10, "trained": True}
        history.add(record | {"training_seconds": 1.0, "evaluation_seconds": 0.5, "peak_bytes": 7, "calibration": bins}, counts)
    return history


def results_of(history, **changes):
    fields = {**history.fields(), "times": history.times, "memory": None, "comparisons": {}, **changes}
    return replace(example_results(), **fields)


def test_a_session_is_one_line_and_nothing_is_written_twice(tmp_path):
    history = filled(tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    assert [json.loads(line)["id"] for line in before.splitlines()] == [0, 1, 2]
    assert history.metrics().items() <= results_of(history).metrics.items()


def test_a_checkpoint_goes_on_where_it_stood(tmp_path):
    state = filled(tmp_path / FILE, 2).state_dict()
    (tmp_path / FILE).unlink()
    filled(tmp_path / FILE, 3)
    lines = read_lines(tmp_path / FILE)
    again = History(tmp_path / FILE)
    again.load_state_dict(state, lines)
    assert read_lines(tmp_path / FILE) == lines[:2]  # what came after the checkpoint comes again
    assert again.state_dict()["sha256"] == state["sha256"] and again.fields() == filled(tmp_path / "other", 2).fields()


@pytest.mark.parametrize("spoil", ["missing", "torn", "another"])
def test_other_lines_are_refused(tmp_path, spoil):
    state = filled(tmp_path / FILE).state_dict()
    lines = read_lines(tmp_path / FILE)
    spoilt = {"missing": lines[:2], "torn": [*lines[:2], lines[2][:20]], "another": [lines[0], lines[1].replace("ä1", "x"), lines[2]]}
    with pytest.raises(ValueError, match=r"sessions\.jsonl of the run folder does not hold the 3 sessions that the checkpoint knows"):
        History(tmp_path / FILE).load_state_dict(state, spoilt[spoil])


def test_a_first_line_of_a_run_that_died_before_its_checkpoint_is_replaced(tmp_path):
    filled(tmp_path / FILE, 1)
    filled(tmp_path / FILE, 1)
    assert len(read_lines(tmp_path / FILE)) == 1


def test_results_that_lag_behind_are_brought_up_to_date(tmp_path):
    early = results_of(filled(tmp_path / "early", 2))
    whole = filled(tmp_path / FILE, 3)
    found = brought_up_to_date(early, tmp_path / FILE)
    assert found.metrics == results_of(whole).metrics and len(found.sessions) == 3 and found.session_confusion is None
    with (tmp_path / FILE).open("a") as file:
        file.write('{"id": 3, "new')  # a run is writing, or died
    assert len(brought_up_to_date(early, tmp_path / FILE).sessions) == 3
    assert brought_up_to_date(early, tmp_path / "none") is early


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_the_text_of_results_reads_back(value):
    assert json.loads(text_of(value)) == value


def test_lists_of_numbers_stand_on_one_line(tmp_path):
    text = text_of({"a": [[1, None], [0.5]], "b": [], "c": ["x", 1], "d": {}})
    assert text == '{\n "a": [\n  [1, null],\n  [0.5]\n ],\n "b": [],\n "c": [\n  "x",\n  1\n ],\n "d": {}\n}'
    example_results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == example_results()
