from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, ImageSet, ImageSource, class_incremental
from hf_cl.scenarios.content import content_hashes
from hf_cl.scenarios.growth import KnownPictures, grown_order, keep_sides
from hf_cl.scenarios.image_store import ArrayStore


@pytest.mark.parametrize("per_session", [1, 2, 5])
def test_new_classes_come_behind_the_taught_ones(per_session):
    names = ("ant", "bee", "cat", "dog", "eel", "fox")
    order, sizes = grown_order(names, np.arange(6), [["dog", "cat"], ["fox"]], per_session)
    assert [names[label] for label in order] == ["dog", "cat", "fox", "ant", "bee", "eel"]
    assert sizes == {1: [2, 1, 1, 1, 1], 2: [2, 1, 2, 1], 5: [2, 1, 3]}[per_session]


def test_a_taught_class_cannot_be_taken_out():
    with pytest.raises(DataError, match="1 class that the run has taught has no images now: cat"):
        grown_order(("cow",), np.arange(1), [["cow"], ["cat"]], 1)
    renamed = "2 classes .* have no images now: cat, dog.* New here: ant, bee. .*`hf-cl classes RUN --rename cat=ant`"
    with pytest.raises(DataError, match=renamed):
        grown_order(("ant", "bee", "cow"), np.arange(3), [["cat", "cow"], ["dog"]], 1)


def test_one_class_alone_makes_no_sessions_of_two(make_source):
    with pytest.raises(ValueError, match=r"The data set has one class, and num_base_classes is 2\. Is it the folder meant"):
        class_incremental(make_source([6]), 2, 2)


@pytest.mark.parametrize("class_order", ["natural", "seed"])
def test_without_new_classes_the_stream_is_the_one_it_was(make_source, class_order):
    source = make_source([6] * 5)
    whole = class_incremental(source, 2, 2, class_order)
    again = class_incremental(source, 2, 2, class_order, taught=[list(session.new_class_names) for session in whole.sessions[:2]])
    assert [session.class_names for session in again] == [session.class_names for session in whole]
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.train.indices, other.train.indices)


def distinct(*counts):
    """Images that differ, `counts` of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageSet(ArrayStore(np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4), dtype=np.uint8)), labels)


def halved(images, part="test", of=lambda position: position % 3 == 0):
    """Every other picture of the classes 0 and 1 known, a third of them on the side `part`."""
    old = [position for position in range(len(images)) if images.labels[position] != 2 and position % 2]
    contents = content_hashes(images)
    return old, KnownPictures((contents[position], images.describe(position), part if of(position) else "train", 0) for position in old)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_known_pictures_keep_their_side_and_new_ones_move_no_other(part):
    images = distinct(50, 50, 4)
    drawn = np.zeros(104, dtype=bool)
    drawn[images.positions_of(2)[0]] = True
    old, known = halved(images, part)
    held = keep_sides(images, drawn, known, part, 0.2, 0)
    assert all(held[position] == (position % 3 == 0) for position in old)
    new = [position for position in range(104) if images.labels[position] != 2 and not position % 2]
    assert 2 <= held[new].sum() <= 20
    np.testing.assert_array_equal(held[images.positions_of(2)], drawn[images.positions_of(2)])
    fewer = keep_sides(images.subset(np.arange(60)), drawn[:60], known, part, 0.2, 0)
    np.testing.assert_array_equal(fewer[images.labels[:60] != 2], held[:60][images.labels[:60] != 2])


def test_a_class_whose_test_pictures_are_gone_gets_a_new_one():
    images = distinct(8)
    contents = content_hashes(images)
    known = KnownPictures((contents[position], images.describe(position), "train", 0) for position in range(6))
    held = [keep_sides(images, np.zeros(8, dtype=bool), known, "test", 0.0, seed) for seed in range(8)]
    assert all(not one[:6].any() and one.sum() == 1 for one in held)
    assert len({int(one.argmax()) for one in held}) == 2  # which one depends on the seed


def test_tracks_stay_together():
    images = distinct(12)
    tracks = np.repeat([0, 1, 2, 3], 3)
    contents = content_hashes(images)
    known = KnownPictures((contents[3 * track], images.describe(3 * track), "test" if track == 1 else "train", 0) for track in range(3))
    held = keep_sides(images, np.zeros(12, dtype=bool), known, "test", 0.2, 0, tracks)
    assert held[:9].tolist() == [False] * 3 + [True] * 3 + [False] * 3 and len(set(held[9:].tolist())) == 1


def test_a_copy_of_pictures_on_both_sides_is_known_by_its_name():
    images = distinct(4)
    content = content_hashes(images)[0]
    both = KnownPictures([(content, images.describe(0), "test", 0), (content, "copy.png", "train", 0)])
    assert both.sides_of(images.subset([0])) == ["test"]
    assert KnownPictures([(content, "a.png", "test", 0), (content, "b.png", "train", 0)]).sides_of(images.subset([0])) == [None]
    assert KnownPictures([(content, "a.png", "test", 0)]).sides_of(images.subset([0])) == ["test"]


def source_of(images, known=None):
    """Even positions train, odd ones test."""
    train, test = (images.subset(np.arange(start, len(images), 2)) for start in (0, 1))
    return ImageSource("photos", ("ant", "bee", "cat"), train, test, "test", known=known)


def known_but(images, new, sessions):
    """All pictures but the `new` ones of the classes 0 and 1, on the side where `source_of` has them, in the session of their class."""
    contents = content_hashes(images)
    for position, label in enumerate(images.labels.tolist()):
        if label < 2 and position not in new:
            yield contents[position], images.describe(position), "test" if position % 2 else "train", sessions[label]


def positions(stream, part):
    return [(session.train if part == "train" else session.tests[-1].data).indices.tolist() for session in stream]


NEW = {0, 2, 3, 10}


def grown(session_from="new_pictures", new=frozenset(NEW), taught=(("ant",), ("bee",)), records=()):
    images = distinct(10, 10, 4)
    known = KnownPictures([*known_but(images, new, {0: 0, 1: 1}), *records])
    return class_incremental(source_of(images, known), 1, 1, "natural", taught=taught, session_from=session_from)


def test_new_pictures_of_taught_classes_make_a_session_before_new_classes():
    stream = grown()
    assert [session.new_class_names for session in stream] == [("ant",), ("bee",), (), ("cat",)]
    assert positions(stream, "train") == [[4, 6, 8], [12, 14, 16, 18], [0, 2, 10], [20, 22]]
    assert positions(stream, "test") == [[1, 5, 7, 9], [11, 13, 15, 17, 19], [3], [21, 23]]
    assert [session.own for session in stream] == [range(1), range(1, 2), range(2), range(2, 3)]
    assert stream.sessions[2].train.labels.tolist() == [0, 0, 1]


def test_new_pictures_are_left_with_their_class_where_nobody_asks_for_them():
    stream = grown("new_classes")
    assert [session.new_class_names for session in stream] == [("ant",), ("bee",), ("cat",)]
    assert positions(stream, "train")[0] == [0, 2, 4, 6, 8]


def test_without_new_training_pictures_there_is_no_such_session():
    assert [session.new_class_names for session in grown(new={3})] == [("ant",), ("bee",), ("cat",)]


@pytest.mark.parametrize("session_from", ["new_classes", "new_pictures"])
def test_a_run_that_goes_on_after_such_a_session_finds_its_pictures_there(session_from):
    images = distinct(10, 10, 4)
    contents = content_hashes(images)
    had = [(contents[p], images.describe(p), "test" if p % 2 else "train", 2) for p in NEW]
    stream = grown(session_from, taught=(("ant",), ("bee",), ()), records=had)
    assert positions(stream, "train") == positions(grown(), "train") and positions(stream, "test") == positions(grown(), "test")


def test_a_session_that_was_planned_and_never_begun_is_planned_again():
    images = distinct(10, 10, 4)
    contents = content_hashes(images)
    planned = [(contents[p], images.describe(p), "test" if p % 2 else "train", 2) for p in NEW]
    assert positions(grown(records=planned), "train") == positions(grown(), "train")


def test_new_pictures_need_a_run_and_its_record():
    images = distinct(10, 10, 4)
    with pytest.raises(DataError, match="goes on with a run: the same command with --resume auto"):
        class_incremental(source_of(images), 1, 1, "natural", session_from="new_pictures")
    with pytest.raises(DataError, match="no record of its pictures"):
        class_incremental(source_of(images), 1, 1, "natural", taught=[["ant"]], session_from="new_pictures")
