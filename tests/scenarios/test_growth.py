from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, ImageSet, class_incremental
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
    with pytest.raises(DataError, match="1 classes that the run has taught have no images now: cat"):
        grown_order(("ant",), np.arange(1), [["cat"]], 1)


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
    return old, KnownPictures((contents[position], images.describe(position), part if of(position) else "train") for position in old)


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
    known = KnownPictures((contents[position], images.describe(position), "train") for position in range(6))
    held = [keep_sides(images, np.zeros(8, dtype=bool), known, "test", 0.0, seed) for seed in range(8)]
    assert all(not one[:6].any() and one.sum() == 1 for one in held)
    assert len({int(one.argmax()) for one in held}) == 2  # which one depends on the seed


def test_tracks_stay_together():
    images = distinct(12)
    tracks = np.repeat([0, 1, 2, 3], 3)
    contents = content_hashes(images)
    known = KnownPictures((contents[3 * track], images.describe(3 * track), "test" if track == 1 else "train") for track in range(3))
    held = keep_sides(images, np.zeros(12, dtype=bool), known, "test", 0.2, 0, tracks)
    assert held[:9].tolist() == [False] * 3 + [True] * 3 + [False] * 3 and len(set(held[9:].tolist())) == 1


def test_a_copy_of_pictures_on_both_sides_is_known_by_its_name():
    images = distinct(4)
    content = content_hashes(images)[0]
    both = KnownPictures([(content, images.describe(0), "test"), (content, "copy.png", "train")])
    assert both.sides_of(images.subset([0])) == ["test"]
    assert KnownPictures([(content, "a.png", "test"), (content, "b.png", "train")]).sides_of(images.subset([0])) == [None]
    assert KnownPictures([(content, "a.png", "test")]).sides_of(images.subset([0])) == ["test"]
