import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_cl.metrics import SessionCounts, count_correct, evaluate_predictions

# Sessions of 2, 1 and 2 classes; every number below is counted by hand.
CLASSES = [2, 1, 2]
SCORES = [
    np.array([[0.9, 0.1, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.9, 0.0], [0.8, 0.1, 0.0, 0.0, 0.2]]),
    np.array([[0.9, 0.0, 0.8, 0.1, 0.1], [0.0, 0.0, 0.5, 0.9, 0.1]]),
    np.array([[0.0, 0.0, 0.9, 0.8, 0.1]]),
]
LABELS = [[0, 1, 1], [2, 2], [3]]


def test_three_accuracies_from_one_set_of_scores():
    counts = evaluate_predictions(SCORES, LABELS, CLASSES)
    assert counts.total.tolist() == [3, 2, 1]
    assert counts.correct.tolist() == [1, 0, 0]  # best of all five
    assert counts.correct_task_aware.tolist() == [2, 2, 1]  # best of the session's own
    assert counts.correct_within.tolist() == [2, 1, 0]  # best of {0, 1}, then best of {2, 3, 4}
    assert counts.class_total.tolist() == [1, 2, 2, 1, 0]
    assert counts.class_correct.tolist() == [1, 0, 0, 0, 0]


def test_candidates_restrict_the_choice():
    scores, labels = SCORES[0], LABELS[0]
    assert count_correct(scores, labels) == 1
    assert count_correct(scores, labels, candidates=(0, 1)) == 2
    assert count_correct(scores, labels, candidates=[1, 0]) == 2
    assert count_correct(np.zeros((0, 5)), [], candidates=[0]) == 0


def test_minus_infinity_never_wins():
    assert count_correct([[-np.inf, -50.0]], [1]) == 1
    with pytest.raises(ValueError, match="no computed score"):
        count_correct([[0.0, -np.inf]], [1], candidates=[1])


def test_nan_is_refused():
    with pytest.raises(ValueError, match="1 of 2 images have NaN scores, the first at position 1"):
        count_correct([[0.0, 1.0], [np.nan, 1.0]], [0, 1])


def test_labels_of_another_session_are_refused():
    counts = SessionCounts(CLASSES)
    with pytest.raises(ValueError, match="Label 2 is not among the 2 classes"):
        counts.add(0, SCORES[0], [0, 2, 1])
    assert counts.total.tolist() == [0, 0, 0]  # nothing half-counted


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="5 classes were seen after session 2, but the scores have 4"):
        SessionCounts(CLASSES).add(0, SCORES[0][:, :4], LABELS[0])
    with pytest.raises(ValueError, match=r"\[3, 5\] and \[2\]"):
        count_correct(SCORES[0], [0, 1])
    with pytest.raises(ValueError, match="at least one class"):
        SessionCounts([0, 2])
    with pytest.raises(ValueError, match="different sessions"):
        SessionCounts([2]) + SessionCounts([3])


@st.composite
def evaluations(draw):
    classes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    bounds = np.cumsum([0, *classes])
    scores, labels = [], []
    for j in range(len(classes)):
        own = st.integers(int(bounds[j]), int(bounds[j + 1]) - 1)
        labels.append(draw(st.lists(own, min_size=1, max_size=6)))
        few = st.sampled_from([-1.0, 0.0, 0.5, 1.0])  # ties are likely
        scores.append(draw(hnp.arrays(np.float64, (len(labels[-1]), int(bounds[-1])), elements=few)))
    return scores, labels, classes


@settings(deadline=None)
@given(evaluations())
def test_fewer_rivals_never_hurt(evaluation):
    counts = evaluate_predictions(*evaluation)
    assert (counts.correct <= counts.correct_within).all()
    assert (counts.correct_within <= counts.correct_task_aware).all()
    assert (counts.correct_task_aware <= counts.total).all()
    assert counts.correct.sum() == counts.class_correct.sum()
    assert counts.total.sum() == counts.class_total.sum()


@settings(deadline=None)
@given(evaluations(), st.data())
def test_batches_and_processes_add_up_to_the_whole(evaluation, data):
    scores, labels, classes = evaluation
    whole = evaluate_predictions(scores, labels, classes)
    first, second = SessionCounts(classes), SessionCounts(classes)
    for j in range(len(classes)):
        cut = data.draw(st.integers(0, len(labels[j])))
        first.add(j, scores[j][:cut], labels[j][:cut])
        second.add(j, scores[j][cut:], labels[j][cut:])
    merged = first + second
    for name in ("total", "correct", "correct_task_aware", "correct_within", "class_total", "class_correct"):
        assert getattr(merged, name).tolist() == getattr(whole, name).tolist(), name


@settings(deadline=None)
@given(evaluations(), st.data())
def test_a_batch_may_hold_images_of_several_tests(evaluation, data):
    scores, labels, classes = evaluation
    whole = evaluate_predictions(scores, labels, classes)
    rows, true = np.concatenate(scores), np.concatenate([np.array(own) for own in labels])
    tests = np.repeat(np.arange(len(classes)), [len(own) for own in labels])
    order = np.array(data.draw(st.permutations(range(len(true)))))
    counts = SessionCounts(classes)
    for batch in np.array_split(order, 3):
        counts.add(tests[batch], rows[batch], true[batch])
    assert counts.record() == whole.record()
    assert counts.confusion.tolist() == whole.confusion.tolist()


def test_a_session_without_a_new_class_chooses_among_all_so_far():
    scores = np.array([[0.9, 0.1, 0.3], [0.1, 0.2, 0.3]])
    counts = SessionCounts([2, 0, 1])
    counts.add(1, scores, [0, 0])
    assert counts.total.tolist() == [0, 2, 0] and counts.correct.tolist() == [0, 1, 0]
    assert counts.correct_task_aware.tolist() == [0, 1, 0]  # best of {0, 1}
    with pytest.raises(ValueError, match="Label 2 is not among the 2 classes"):
        counts.add(1, scores, [2, 0])
    counts.add(2, scores, [2, 2])
    assert counts.correct_task_aware.tolist() == [0, 1, 2]  # best of {2}


def test_a_test_may_name_the_classes_that_are_its_own():
    scores = np.array([[0.1, 0.9, 0.3], [0.1, 0.2, 0.3], [0.5, 0.1, 0.4]])
    counts = SessionCounts([2, 1], own=[(), (0, 2)])
    counts.add(np.array([1, 1, 0]), scores, [2, 0, 0])
    assert counts.correct_task_aware.tolist() == [1, 1]  # best of {0, 1}, then best of {0, 2}
    assert counts.correct_within.tolist() == [1, 1]  # an image of a base class among those
    with pytest.raises(ValueError, match="Label 1 is not among the 2 classes"):
        counts.add(1, scores, [1, 0, 0])
