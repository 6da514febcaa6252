import tracemalloc

import numpy as np
import pytest

from hf_cl.metrics import AccuracyMatrix, SessionCounts, check_confusions, confused_pairs, evaluate_predictions, session_confusion

# Classes 0 and 1 in session 0, class 2 in session 1, class 3 in session 2; rows: true, columns: predicted.
CONFUSION = np.array([[5, 1, 4, 0], [0, 6, 2, 2], [3, 0, 7, 0], [0, 0, 0, 10]])
SIZES = [2, 1, 1]


def sparse(table):
    """[k, 3] as evaluations count it."""
    true, predicted = np.nonzero(table)
    return np.stack([true, predicted, table[true, predicted]], axis=1)


def one_hot(predicted, classes):
    scores = np.zeros((len(predicted), classes), np.float32)
    scores[np.arange(len(predicted)), predicted] = 1
    return scores


def test_sessions_by_hand():
    assert session_confusion(sparse(CONFUSION), SIZES) == [[12, 6, 2], [3, 7, 0], [0, 0, 10]]


def test_pairs_of_two_sessions_only_most_frequent_first():
    assert confused_pairs(sparse(CONFUSION), SIZES) == [[0, 2, 4], [2, 0, 3], [1, 2, 2], [1, 3, 2]]  # 0 for 1 is inside session 0


def test_each_direction_has_its_own_places():
    assert confused_pairs(sparse(CONFUSION), SIZES, most=1) == [[0, 2, 4], [2, 0, 3]]


def test_a_record_of_many_classes_is_small():
    everywhere = np.ones((1000, 1000), np.int64)
    assert len(confused_pairs(sparse(everywhere), [10] * 100)) == 20


def test_an_evaluation_counts_what_was_named():
    scores = [np.eye(3)[[0, 2, 2]], np.eye(3)[[1]]]
    counts = evaluate_predictions(scores, [[0, 0, 1], [2]], [2, 1])
    assert counts.confusion.tolist() == [[0, 0, 1], [0, 2, 1], [1, 2, 1], [2, 1, 1]]  # true, predicted, images
    assert (counts + counts).confusion[:, 2].tolist() == [2, 2, 2, 2]
    matrix = AccuracyMatrix()
    matrix.add(evaluate_predictions([np.eye(2)[[0, 1, 1]]], [[0, 0, 1]], [2]))
    assert matrix.fields()["session_confusion"] == [[3]] and matrix.fields()["confused_pairs"] == []
    matrix.add(counts)
    assert matrix.fields()["session_confusion"] == [[1, 2], [1, 0]]  # of the latest evaluation
    assert matrix.fields()["confused_pairs"] == [[0, 2, 1], [1, 2, 1], [2, 1, 1]]


def test_the_diagonal_and_the_counts_fit_the_accuracies():
    rng = np.random.default_rng(0)
    scores, labels = [rng.normal(size=(30, 6)), rng.normal(size=(20, 6))], [rng.integers(0, 4, 30), rng.integers(4, 6, 20)]
    counts = evaluate_predictions(scores, labels, [4, 2])
    table = np.zeros((6, 6), int)
    table[counts.confusion[:, 0], counts.confusion[:, 1]] = counts.confusion[:, 2]
    assert np.diag(table).tolist() == counts.class_correct.tolist()
    assert table.sum(axis=1).tolist() == counts.class_total.tolist()


def test_ten_thousand_classes_take_no_square_table():
    counts = SessionCounts([100] * 100)
    labels, predicted = np.array([0, 9_999, 9_999]), np.array([9_999, 0, 0])
    tracemalloc.start()
    counts.add(np.array([0, 99, 99]), one_hot(predicted, 10_000), labels)
    assert counts.confusion.tolist() == [[0, 9_999, 1], [9_999, 0, 2]]
    assert confused_pairs(counts.confusion, counts.classes_per_session) == [[9_999, 0, 2], [0, 9_999, 1]]
    assert tracemalloc.get_traced_memory()[1] < 10e6  # a table would be 800
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("between", "pairs", "message"),
    [
        ([[3, 1], [0, 5]], [], r"sums to its test images \[4, 6\]; got \[4, 5\]"),
        ([[5, -1], [0, 6]], [], "session_confusion"),
        ([[4], [6]], [], "session_confusion"),
        ([[3, 1], [1, 5]], [[0, 1, 2]], r"\[0, 1, 2\] is not"),
        ([[3, 1], [1, 5]], [[0, 3, 2]], "of classes of two sessions"),
        ([[3, 1], [1, 5]], [[0, 2, 0]], "of classes of two sessions"),
        ([[3, 1], [1, 5]], [[0, 2]], "of classes of two sessions"),
    ],
)
def test_records_that_do_not_fit_are_refused(between, pairs, message):
    with pytest.raises(ValueError, match=message):
        check_confusions(between, pairs, [4, 6], [0, 0, 1])
    check_confusions([[3, 1], [1, 5]], [[0, 2, 1]], [4, 6], [0, 0, 1])
