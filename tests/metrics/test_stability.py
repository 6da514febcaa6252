import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worked_example import TRACES, measurements

from hf_cl import metrics
from hf_cl.metrics import StabilityTraces

curves = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


def single(curve):
    return StabilityTraces(every=1, steps=list(range(1, len(curve) + 1)), session_ends=[len(curve)], traces=[curve])


def by_definition(curve, w, sign):
    pairs = [(a, b) for a in range(len(curve)) for b in range(a + 1, len(curve)) if b - a < w]
    return max([0.0, *(sign * (curve[b] - curve[a]) for a, b in pairs)])


@settings(deadline=None)
@given(curves, st.integers(2, 12))
def test_windows_follow_the_definition(curve, w):
    assert metrics.windowed_plasticity(single(curve), w) == [pytest.approx(by_definition(curve, w, 1))]
    assert metrics.windowed_forgetting(single(curve), w) == [pytest.approx(by_definition(curve, w, -1))]


@settings(deadline=None)
@given(curves, st.integers(2, 12))
def test_a_wider_window_sees_no_less(curve, w):
    assert metrics.windowed_forgetting(single(curve), w + 1)[0] >= metrics.windowed_forgetting(single(curve), w)[0]


@settings(deadline=None)
@given(curves)
def test_falls_are_rises_read_backwards(curve):
    assert metrics.windowed_forgetting(single(curve), 5) == metrics.windowed_plasticity(single(curve[::-1]), 5)


def test_sparse_evaluation_counts_from_the_first_one_after_the_session():
    sparse = StabilityTraces(every=3, steps=[3, 6, 9], session_ends=[4, 9], traces=[[0.9, 0.3, 0.5], [0.6, 0.8]])
    assert metrics.min_accuracy(sparse) == [0.3, None]
    assert metrics.min_accuracy(sparse, at_step=3) == [None, None]
    assert metrics.worst_case_accuracy(sparse) == pytest.approx((0.8 + 0.3) / 2)


def test_a_session_that_trains_nothing_leaves_its_numbers_undefined():
    idle = StabilityTraces(every=1, steps=[1, 2], session_ends=[2, 2], traces=[[0.5, 0.6], []])
    assert metrics.min_accuracy(idle) == [None, None]
    summary = metrics.summarize(measurements(continual=idle))
    assert summary["windowed_forgetting_10"] is None
    assert summary["average_min_accuracy"] is None


def test_nothing_evaluated_yet():
    empty = StabilityTraces(every=5)
    assert metrics.worst_case_accuracy(empty) is None
    assert metrics.average_min_accuracy(empty) is None
    assert metrics.min_accuracy(empty) == []
    assert metrics.learning_curve_area(empty) is None


def test_names_carry_the_window():
    summary = metrics.summarize(measurements(continual=TRACES))
    assert list(summary)[-5:] == [
        "windowed_forgetting_2",
        "windowed_forgetting_4",
        "windowed_plasticity_2",
        "windowed_plasticity_4",
        "learning_curve_area_10",
    ]
    assert "windowed_forgetting_2" not in metrics.summarize(measurements())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [2, 1]}, "steps must increase"),
        ({"session_ends": [3, 2]}, "must not decrease"),
        ({"every": 0}, "every must be at least 1"),
        ({"window": [1]}, "each window at least 2"),
        ({"steps": [1], "traces": [[0.1, 0.2]]}, r"traces\[0\] must hold at most 1"),
        ({"steps": [1], "traces": [[1.2]]}, r"each from 0 to 1"),
    ],
)
def test_impossible_traces_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        metrics.check_traces(StabilityTraces(**({"every": 1} | changes)))
    metrics.check_traces(TRACES)
