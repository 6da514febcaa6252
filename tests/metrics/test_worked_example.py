"""Every metric of the worked example, against numbers computed by hand."""

import pytest
from worked_example import TRACES, measurements

from hf_cl import metrics
from hf_cl.metrics import StabilityTraces, summarize

EXPECTED = {
    "session_accuracy": [0.90, 0.775, 0.61],
    "average_incremental_accuracy": 0.761667,
    "final_accuracy": 0.61,
    "session_accuracy_unweighted": [0.90, 0.75, 0.616667],
    "average_incremental_accuracy_unweighted": 0.755556,
    "final_accuracy_unweighted": 0.616667,
    "pooled_accuracy": 0.7375,
    "performance_drop": 0.29,
    "performance_drop_relative": 0.322222,
    "forgetting": 0.125,
    "forgetting_clipped": 0.15,
    "forgetting_stepwise": 0.0875,
    "backward_transfer": -0.125,
    "backward_transfer_all_pairs": -0.116667,
    "base_accuracy": [0.90, 0.80, 0.60],
    "novel_accuracy": [None, 0.70, 0.625],
    "harmonic_accuracy": [None, 0.746667, 0.612245],
    "average_harmonic_accuracy": 0.679456,
    "old_accuracy": [None, 0.80, 0.6375],
    "new_session_accuracy": [0.90, 0.70, 0.50],
    "min_accuracy": [0.4, None],
    "average_min_accuracy": 0.4,
    "worst_case_accuracy": 0.6,
    "windowed_forgetting_2": 0.25,
    "windowed_forgetting_4": 0.25,
    "windowed_plasticity_2": 0.25,
    "windowed_plasticity_4": 0.6,
}


def close(value):
    """Six decimals, as the numbers above are printed."""
    if isinstance(value, list):
        return [close(entry) for entry in value]
    return value if value is None else pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize("name", EXPECTED)
def test_metric(name):
    assert summarize(measurements(continual=TRACES))[name] == close(EXPECTED[name])


def test_worst_case_accuracy_along_measurements():
    assert metrics.worst_case_accuracy(TRACES, at_step=4) == pytest.approx(0.9)
    assert metrics.worst_case_accuracy(TRACES, at_step=5) == pytest.approx(0.35)
    assert metrics.worst_case_accuracy(TRACES, at_step=8) == pytest.approx(0.6)
    assert metrics.average_min_accuracy(TRACES, at_step=4) is None


def test_windowed_metrics_per_session():
    assert metrics.windowed_forgetting(TRACES, 2) == [pytest.approx(0.5), 0.0]
    assert metrics.windowed_forgetting(TRACES, 4) == [pytest.approx(0.5), 0.0]
    assert metrics.windowed_plasticity(TRACES, 2) == [pytest.approx(0.3), pytest.approx(0.2)]
    assert metrics.windowed_plasticity(TRACES, 4) == [pytest.approx(0.7), pytest.approx(0.5)]


def test_learning_curve_area():
    assert metrics.learning_curve_area(TRACES, b=2) == pytest.approx(0.375)
    assert metrics.learning_curve_area(TRACES, b=5) is None  # four evaluations per session


def test_the_authors_shortcut_is_not_taken_for_plasticity():
    curve = StabilityTraces(every=1, steps=[1, 2, 3], session_ends=[3], traces=[[0.5, 0.2, 0.9]])
    assert metrics.windowed_plasticity(curve, 3) == [pytest.approx(0.7)]


def test_a_single_session_has_no_forgetting_and_no_novel_class():
    summary = summarize(measurements(accuracy_matrix=[[0.5]], test_counts=[10]))
    assert summary["final_accuracy"] == summary["average_incremental_accuracy"] == 0.5
    assert summary["novel_accuracy"] == summary["harmonic_accuracy"] == summary["old_accuracy"] == [None]
    undefined = ("forgetting", "forgetting_clipped", "forgetting_stepwise", "backward_transfer", "backward_transfer_all_pairs")
    for name in (*undefined, "performance_drop", "performance_drop_relative", "average_harmonic_accuracy"):
        assert summary[name] is None, name
