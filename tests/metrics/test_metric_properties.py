"""What must hold for any accuracy matrix."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worked_example import MATRIX, measurements

from hf_cl import metrics

accuracy = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def runs(draw, min_sessions=1):
    sessions = draw(st.integers(min_sessions, 6))
    rows = [draw(st.lists(accuracy, min_size=t + 1, max_size=t + 1)) for t in range(sessions)]
    counts = draw(st.lists(st.integers(1, 500), min_size=sessions, max_size=sessions))
    return rows, counts


@settings(deadline=None)
@given(runs())
def test_averages_stay_inside_what_they_average(run):
    matrix, counts = run
    for row, by_image, by_session in zip(
        matrix, metrics.session_accuracy(matrix, counts), metrics.session_accuracy_unweighted(matrix), strict=True
    ):
        for value in (by_image, by_session):
            assert min(row) - 1e-9 <= value <= max(row) + 1e-9
    values = [value for row in matrix for value in row]
    assert min(values) - 1e-9 <= metrics.pooled_accuracy(matrix, counts) <= max(values) + 1e-9


@settings(deadline=None)
@given(runs(), st.integers(1, 100))
def test_equal_test_sets_make_weighting_by_image_and_by_session_equal(run, count):
    matrix, counts = run
    by_image = metrics.session_accuracy(matrix, [count] * len(counts))
    assert by_image == pytest.approx(metrics.session_accuracy_unweighted(matrix))


@settings(deadline=None)
@given(runs(min_sessions=2))
def test_kinds_of_forgetting(run):
    matrix, _ = run
    clipped = metrics.forgetting_clipped(matrix)
    assert clipped >= 0
    assert clipped >= metrics.forgetting(matrix) - 1e-12
    assert metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12  # the best row is at least the diagonal


@settings(deadline=None)
@given(runs(min_sessions=2))
def test_two_sessions_make_the_conventions_agree(run):
    matrix = run[0][:2]
    drop = matrix[0][0] - matrix[1][0]
    assert metrics.forgetting(matrix) == metrics.forgetting_stepwise(matrix) == drop
    assert metrics.backward_transfer(matrix) == metrics.backward_transfer_all_pairs(matrix) == -drop


@settings(deadline=None)
@given(runs())
def test_harmonic_accuracy_lies_between_base_and_novel(run):
    matrix, counts = run
    base, novel = metrics.base_accuracy(matrix), metrics.novel_accuracy(matrix, counts)
    for b, n, h in zip(base, novel, metrics.harmonic_accuracy(base, novel), strict=True):
        assert (h is None) == (n is None)
        if h is not None:
            assert min(b, n) - 1e-9 <= h <= max(b, n) + 1e-9


@settings(deadline=None)
@given(runs())
def test_old_and_new_together_are_all(run):
    matrix, counts = run
    old, new = metrics.old_accuracy(matrix, counts), metrics.new_session_accuracy(matrix)
    for t, whole in enumerate(metrics.session_accuracy(matrix, counts)):
        before = sum(counts[:t])
        assert whole == pytest.approx(((old[t] or 0) * before + new[t] * counts[t]) / (before + counts[t]))


@settings(deadline=None)
@given(runs())
def test_a_summary_is_json_without_nan(run):
    matrix, counts = run
    filled = measurements(accuracy_matrix=matrix, accuracy_matrix_task_aware=matrix, accuracy_matrix_within=matrix, test_counts=counts)
    summary = metrics.summarize(filled)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary) == list(metrics.METRICS)[: len(summary)]  # those of continual evaluation come last and only if probed


def test_both_accuracies_zero_give_harmonic_zero():
    assert metrics.harmonic_accuracy([0.5, 0.0], [None, 0.0]) == [None, 0.0]


def test_relative_drop_from_zero_is_undefined():
    assert metrics.performance_drop_relative([0.0, 0.0]) is None


def test_class_mean_leaves_out_classes_without_images():
    assert metrics.class_mean_accuracy([[0.5, None], [None, None, None]]) == [0.5, None]


def test_forgetting_per_class():
    rows = [[0.8, 0.0], [0.9, 0.0, 0.5], [0.6, 0.2, 0.7, 1.0]]
    assert metrics.forgetting_per_class(rows) == pytest.approx((0.3 - 0.2 - 0.2) / 3)
    assert metrics.forgetting_per_class(rows, skip_never_learned=True) == pytest.approx((0.3 - 0.2) / 2)
    assert metrics.forgetting_per_class([[0.5]]) is None
    assert metrics.forgetting_per_class([]) is None


def test_forward_transfer():
    assert metrics.forward_transfer([0.6, 0.5], [0.5, 0.6]) == pytest.approx(0.0)
    assert metrics.forward_transfer([], []) is None


def test_anytime_accuracy():
    assert metrics.anytime_accuracy([0.2, 0.4]) == pytest.approx(0.3)
    assert metrics.anytime_accuracy([]) is None


def test_published_average_rows_are_the_harmonic_of_means():
    assert round(metrics.harmonic_of_means([82.28], [75.14]), 2) == 78.55
    assert round(metrics.harmonic_of_means([69.34], [74.22]), 2) == 71.70
    base, novel = [0.9, 0.5], [0.5, 0.9]
    assert metrics.harmonic_of_means(base, novel) == pytest.approx(0.7)
    assert metrics.mean_of_harmonics(base, novel) == pytest.approx(0.9 / 1.4)
    assert metrics.harmonic_of_means([], []) is None


def test_within_metrics_come_from_their_own_matrix():
    within = [[0.9], [0.8, 0.6], [0.7, 0.5, 0.9]]
    summary = metrics.summarize(measurements(accuracy_matrix_within=within, test_counts=[60, 20, 20]))
    assert summary["base_accuracy_within"] == [0.9, 0.8, 0.7]
    assert summary["novel_accuracy_within"] == [None, 0.6, pytest.approx(0.7)]
    assert summary["harmonic_accuracy_within"][2] == pytest.approx(0.7)
    assert summary["base_accuracy"] == [row[0] for row in MATRIX]


def test_global_and_local_forgetting():
    task_aware = [[0.9], [0.9, 0.8], [0.8, 0.8, 0.9]]
    summary = metrics.summarize(measurements(accuracy_matrix_task_aware=task_aware))
    assert summary["forgetting_task_aware"] == pytest.approx(0.05)
    assert summary["task_aware_accuracy"][1] == pytest.approx((60 * 0.9 + 20 * 0.8) / 80)


def test_base_to_novel_summary():
    summary = metrics.summarize(measurements(accuracy_matrix=None, test_counts=[10, 10], test_accuracy={"base": 0.8, "novel": 0.6}))
    assert summary["base_accuracy_within"] == 0.8
    assert summary["harmonic_accuracy_within"] == pytest.approx(0.96 / 1.4)
    assert summary["average_test_accuracy"] == pytest.approx(0.7)
    for name in ("base_accuracy", "novel_accuracy", "forgetting", "final_accuracy"):
        assert summary[name] is None, name


def test_cross_dataset_summary():
    summary = metrics.summarize(measurements(accuracy_matrix=None, test_counts=[10, 10], test_accuracy={"pets": 0.9, "cars": 0.6}))
    assert summary["average_test_accuracy"] == pytest.approx(0.75)
    assert summary["base_accuracy_within"] is None


def test_every_metric_has_a_description():
    assert metrics.description("windowed_forgetting_10") == metrics.METRICS["windowed_forgetting"]
    assert metrics.description("final_accuracy") == metrics.METRICS["final_accuracy"]
    with pytest.raises(KeyError):
        metrics.description("accuracy")


def test_results_are_plain_numbers():
    summary = metrics.summarize(measurements())
    assert not any(isinstance(value, np.generic) for value in summary.values())
    assert type(summary["final_accuracy"]) is float
