import json

import numpy as np
import pytest

from hf_cl.metrics import AccuracyMatrix, SessionCounts, check_matrix, evaluate_predictions


def one_hot(predictions, classes):
    return np.eye(classes)[predictions]


def first_two_sessions():
    matrix = AccuracyMatrix()
    matrix.add(evaluate_predictions([one_hot([0, 1, 0, 0], 2)], [[0, 1, 1, 0]], [2]))
    matrix.add(evaluate_predictions([one_hot([0, 2, 0, 0], 4), one_hot([2, 1], 4)], [[0, 1, 1, 0], [2, 2]], [2, 2]))
    return matrix


def test_rows_grow_with_the_sessions():
    fields = first_two_sessions().fields()
    assert fields["accuracy_matrix"] == [[0.75], [0.5, 0.5]]
    assert fields["test_counts"] == [4, 2]
    assert fields["class_accuracy_matrix"] == [[1.0, 0.5], [1.0, 0.0, 0.5, None]]  # class 3 has no test image
    assert fields["accuracy_matrix_task_aware"][1][1] == 1.0  # among 2 and 3 the second image is a 2
    assert fields["accuracy_matrix_within"][1][1] == 1.0


def test_records_of_counts_and_confusions_make_the_matrix_again():
    matrix, again = AccuracyMatrix(), AccuracyMatrix()
    for sizes, scores, labels in (
        ([2], [one_hot([0, 1, 0, 0], 2)], [[0, 1, 1, 0]]),
        ([2, 2], [one_hot([0, 2, 0, 0], 4), one_hot([2, 1], 4)], [[0, 1, 1, 0], [2, 2]]),
    ):
        counts = evaluate_predictions(scores, labels, sizes)
        matrix.add(counts)
        again.add(SessionCounts.from_record(sizes, json.loads(json.dumps(counts.record()))))
    assert again.fields() != matrix.fields()  # the record has no confusions
    again.restore_confusions(matrix.confusions())
    assert again.fields() == matrix.fields() and again.metrics() == matrix.metrics()


def test_what_is_not_the_next_row_is_refused():
    matrix = first_two_sessions()
    with pytest.raises(ValueError, match="needs 3 tests, got 1"):
        matrix.add(evaluate_predictions([one_hot([0], 2)], [[0]], [2]))
    counts = SessionCounts([2, 2, 1])
    counts.total[:] = [4, 2, 0]
    with pytest.raises(ValueError, match="Session 2 has no test images"):
        matrix.add(counts)


def test_tests_that_changed_are_kept_row_by_row():
    matrix = first_two_sessions()
    assert matrix.fields()["test_counts_then"] is None
    counts = SessionCounts([2, 2, 1])
    counts.total[:], counts.correct[:] = [3, 2, 1], [3, 1, 0]
    matrix.add(counts)
    fields = matrix.fields()
    assert fields["test_counts"] == [3, 2, 1] and fields["test_counts_then"] == [[4], [4, 2], [3, 2, 1]]
    assert matrix.metrics()["final_accuracy"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5]], "m has 1 rows, expected 2"),
        ([[0.5], [0.5]], r"m\[1\] has 1 values, expected 2"),
        ([[0.5], [0.5, 1.5]], r"m\[1\] holds a value outside"),
        ([[float("nan")], [0.5, 0.5]], r"m\[0\] holds a value outside"),
    ],
)
def test_a_matrix_of_the_wrong_shape_is_named(matrix, message):
    with pytest.raises(ValueError, match=message):
        check_matrix("m", matrix, 2)
