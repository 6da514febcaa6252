import json

import pytest
from example_results import probed_results

from hf_cl.metrics import StabilityTraces
from hf_cl.results.report_training import POINTS, stability_chart, traced_sessions, training_charts
from hf_cl.results.training_log import FILE, read_training_log


def line(step, session=0, **values):
    return json.dumps({"time": 1.0, "kind": "train", "step": step, "session": session, "phase": "p", "epoch": 0, **values})


def log_of(folder, *lines):
    (folder / FILE).write_text("".join(f"{text}\n" for text in lines))
    return read_training_log(folder)


def test_losses_and_rates_by_step(tmp_path):
    other = json.dumps({"kind": "session", "step": 2, "final_accuracy": 0.5})
    first = line(1, loss_cross_entropy=2.0, learning_rate_0=0.1, learning_rate_1=0.1)
    second = line(2, 1, loss_cross_entropy=1.0, loss_stay=0.5, learning_rate_0=0.1, learning_rate_1=0.1)
    loss, rate = training_charts(log_of(tmp_path, first, other, second))
    assert loss.x == [1, 2] and {found.name: found.values for found in loss.lines} == {"cross entropy": [2.0, 1.0], "stay": [None, 0.5]}
    assert [(found.name, found.values) for found in rate.lines] == [("learning rate", [0.1, 0.1])]  # both groups have one course
    assert loss.marks == [(1.0, "session 0"), (2.0, "1")] and not loss.log


def test_what_a_resume_repeats_counts_once(tmp_path):
    repeated = [line(1, loss_a=9.0), line(2, loss_a=8.0), line(2, loss_a=1.0), '{"kind": "train", "st']
    assert log_of(tmp_path, *repeated).losses == {"a": {1: 9.0, 2: 1.0}}
    assert read_training_log(tmp_path / "nowhere").losses == {}
    assert training_charts(log_of(tmp_path, line(1, loss_a=9.0))) == []  # one point is no curve


def test_long_runs_show_means_of_stretches(tmp_path):
    (chart,) = training_charts(log_of(tmp_path, *(line(step, loss_a=float(step % 2)) for step in range(1, 3001))))
    assert len(chart.x) == POINTS and chart.x[-1] == 3000 and set(chart.lines[0].values) == {0.5}


def test_losses_of_different_size_go_by_powers_of_ten(tmp_path):
    (chart,) = training_charts(log_of(tmp_path, line(1, loss_a=20.0, loss_b=0.01), line(2, loss_a=15.0, loss_b=0.02)))
    assert chart.log
    (chart,) = training_charts(log_of(tmp_path, line(1, loss_a=20.0, loss_b=0.0), line(2, loss_a=15.0, loss_b=0.02)))
    assert not chart.log  # 0 has no logarithm


def test_stability_names_every_line_it_draws():
    chart = stability_chart(probed_results().continual)
    assert [found.name for found in chart.lines] == ["test images of session 0", "test images of session 1"]
    assert chart.marks[0] == (float(chart.x[0]), "session 0") and len(chart.marks) == 2


def test_long_traces_keep_their_lowest_points():
    trace = [0.1 if n == 4321 else 0.9 for n in range(1, 10_001)]
    chart = stability_chart(StabilityTraces(every=1, steps=list(range(1, 10_001)), session_ends=[], traces=[trace]))
    assert len(chart.x) == POINTS and chart.lines[0].values.count(10.0) == 1
    assert chart.x[chart.lines[0].values.index(10.0)] == pytest.approx(4321, abs=10_000 / POINTS)


def test_a_session_that_has_just_begun_can_be_drawn():
    chart = stability_chart(StabilityTraces(every=5, steps=[5], session_ends=[5], traces=[[0.5], []]))
    assert [found.values for found in chart.lines] == [[50.0], [None]]


def test_sessions_are_chosen_evenly():
    assert traced_sessions(100)[0] == 0 and traced_sessions(100)[-1] == 99 and len(traced_sessions(100)) == 8
    assert traced_sessions(3) == [0, 1, 2]
