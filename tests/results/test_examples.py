import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from stream import Stream

from hf_cl.results.examples import FEW, FILE, MANY, NEAREST, ExamplePicker, drawn_positions, read_examples, write_examples


def scores_for(labels, classes, wrong=()):
    """Confident scores, wrong at the positions in `wrong`."""
    predicted = [(label + 1) % classes if i in wrong else label for i, label in enumerate(labels)]
    return 4.0 * np.eye(classes)[predicted]


def most_probable(scores):
    """The classes with the largest softmax, and it."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :NEAREST]
    return best, np.take_along_axis(shares, best, axis=1)


def last_session(sessions=3, test=4):
    *_, last = Stream(sessions, test=test)
    return last


def pick(session, shares, wrong=()):
    """Rows of one picker per share; a share is the positions of each test that a process evaluates."""
    sizes = [len(test.data) for test in session.tests]
    rows = []
    for share in shares:
        picker = ExamplePicker(sizes)
        for number, test in enumerate(session.tests):
            labels = np.asarray(test.data.labels)
            scores = scores_for(labels.tolist(), len(session.class_names), wrong)
            positions = [p for p in range(len(labels)) if p % len(shares) == share]
            picker.add(number, scores[positions], labels[positions], positions, *most_probable(scores[positions]))
        rows += picker.rows()
    return rows


def test_the_file_holds_names_scores_and_pictures(tmp_path):
    session = last_session()
    write_examples(tmp_path, session.tests, session.class_names, [2, 2, 2], pick(session, [0], wrong={3}))
    examples = read_examples(tmp_path)
    drawn, mistakes = [e for e in examples if e.drawn], [e for e in examples if not e.drawn]
    assert len(drawn) == FEW and 1 <= len(mistakes) <= FEW
    assert {e.session for e in drawn} == {0, 1, 2}
    assert all(e.true != e.predicted for e in mistakes)
    assert all(e.confidence == pytest.approx(np.exp(4) / (np.exp(4) + 5), abs=1e-6) for e in examples)
    for example in examples:
        assert example.nearest[0] == (example.predicted, example.confidence) and len(example.nearest) == NEAREST
        assert example.nearest[1][1] == pytest.approx(1 / (np.exp(4) + 5), abs=1e-6)
        kind, data = example.image.removeprefix("data:image/").split(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "png" and image.size == (32, 32)  # small images are kept as they are


def test_the_pictures_are_of_the_images_they_say(tmp_path):
    session = last_session()
    write_examples(tmp_path, session.tests, session.class_names, [2, 2, 2], pick(session, [0]))
    first = read_examples(tmp_path)[0]
    picture = Image.open(io.BytesIO(base64.b64decode(first.image.split(",")[1])))
    same = [
        (test.data[i]["image"].tobytes() == picture.tobytes(), session.class_names[test.data.labels[i]])
        for test in session.tests
        for i in range(len(test.data))
    ]
    assert [name for equal, name in same if equal] == [first.true]


def test_the_number_of_processes_changes_nothing(tmp_path):
    session = last_session(test=11)
    texts = []
    for shares in ([0], [0, 1], [0, 1, 2]):
        write_examples(tmp_path, session.tests, session.class_names, [2, 2, 2], pick(session, shares, wrong={0, 7, 20}))
        texts.append((tmp_path / FILE).read_text())
    assert texts[0] == texts[1] == texts[2]


def test_large_images_become_small_jpegs(tmp_path):
    session = last_session()
    for test in session.tests:
        test.data.side = 600
    write_examples(tmp_path, session.tests, session.class_names, [2, 2, 2], pick(session, [0]))
    assert all(e.image.startswith("data:image/jpeg;base64,") for e in read_examples(tmp_path))
    assert (tmp_path / FILE).stat().st_size < 150_000


def test_one_bad_pair_does_not_fill_the_page(tmp_path):
    session = last_session(sessions=2, test=30)
    write_examples(tmp_path, session.tests, session.class_names, [2, 2], pick(session, [0], wrong=set(range(0, 60, 2))))
    mistakes = [(e.true, e.predicted) for e in read_examples(tmp_path) if not e.drawn]
    assert len(mistakes) == len(set(mistakes))


def test_rows_have_one_shape_on_every_process():
    picker = ExamplePicker([4, 4])
    assert np.array(picker.rows()).shape == (2 * FEW, 10)
    picker.add(0, np.eye(4), np.array([1, 2, 3, 0]), [0, 1, 2, 3], *most_probable(np.eye(4)))
    assert np.array(picker.rows()).shape == (2 * FEW, 10)


def test_few_test_images_are_drawn_once():
    assert drawn_positions([1], FEW) == {(0, 0)}
    assert len(drawn_positions([100] * 10, MANY)) == MANY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "https://example.org/x.png"}, "no PNG or JPEG data URL"),
        ({"image": "data:image/svg+xml;base64,AAAA"}, "no PNG or JPEG data URL"),
        ({"session": "one"}, "valid integer"),
        ({"extra": 1}, "0.extra"),
    ],
)
def test_other_content_is_refused(tmp_path, change, message):
    session = last_session()
    write_examples(tmp_path, session.tests, session.class_names, [2, 2, 2], pick(session, [0]))
    values = json.loads((tmp_path / FILE).read_text())
    values[0] |= change
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path)


def test_candidates_compete_alone_and_some_classes_are_never_taught(tmp_path):
    session = last_session(sessions=2)
    picker = ExamplePicker([4])
    scores = np.tile([-np.inf, -np.inf, 2.0, 3.0], (4, 1))
    picker.add(0, scores, np.array([2, 3, 2, 3]), [0, 1, 2, 3], *most_probable(scores))
    write_examples(tmp_path, session.tests[1:], session.class_names, [2], picker.rows())
    examples = read_examples(tmp_path)
    assert {e.predicted for e in examples} == {"class 3"} and {e.session for e in examples} == {None}
    assert examples[0].confidence == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_two_classes_have_two_neighbours():
    picker = ExamplePicker([4])
    scores = np.array([[2.0, 1.0]] * 4)
    picker.add(0, scores, np.zeros(4, int), [0, 1, 2, 3], *most_probable(scores))
    assert {tuple(row[4:]) for row in picker.rows() if row[0] == 1} == {(0, 731059, 1, 268941, -1, 0)}


def test_examples_of_an_earlier_version_have_no_neighbours(tmp_path):
    old = {"true": "ant", "predicted": "gnu", "confidence": 0.5, "session": 0, "drawn": True, "image": "data:image/png;base64,AAAA"}
    (tmp_path / FILE).write_text(json.dumps([old]))
    assert read_examples(tmp_path)[0].nearest == []


def test_a_run_without_the_file_has_none(tmp_path):
    assert read_examples(tmp_path) == []
