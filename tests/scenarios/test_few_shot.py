from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, ImageSet, ImageSource, few_shot_class_incremental, few_shot_class_incremental_tuning
from hf_cl.scenarios.content import content_hashes
from hf_cl.scenarios.growth import KnownPictures
from hf_cl.scenarios.image_store import ArrayStore


@pytest.fixture
def source(make_source):
    return make_source([12, 11, 10, 9, 8, 7], [3, 4, 5, 6, 7, 8])


def test_the_base_session_has_all_images_and_later_ones_their_shots(source):
    stream = few_shot_class_incremental(source, 2, 2, shots=5)
    assert stream.class_names == source.class_names
    assert [len(session.train) for session in stream] == [23, 10, 10]
    for session in stream.sessions[1:]:
        assert session.train.counts(6)[session.first_new_class : len(session.class_names)].tolist() == [5, 5]
    assert [len(test.data) for test in stream.sessions[-1].tests] == [7, 11, 15]
    assert [test.candidates for test in stream.sessions[1].tests] == [tuple(range(4))] * 2


def test_labels_and_rows_belong_together(source):
    for session in few_shot_class_incremental(source, 2, 2, shots=5):
        assert source.train.labels[session.train.indices].tolist() == session.train.labels.tolist()


def test_the_draw_is_the_seeds_and_nested_in_shots(source):
    def rows(shots, seed):
        sessions = few_shot_class_incremental(source, 2, 2, shots=shots, class_order_seed=seed).sessions[1:]
        return {int(row) for session in sessions for row in session.train.indices}

    assert rows(5, 1) == rows(5, 1)
    assert rows(5, 1) != rows(5, 2)
    assert rows(3, 1) < rows(5, 1)


def test_the_protocol_says_own_draw(source):
    protocol = few_shot_class_incremental(source, 2, 2, shots=5, class_order_seed=3).protocol
    assert protocol["index_list"] == {"kind": "own_draw", "sha256": None}
    assert (protocol["shots"], protocol["class_order"], protocol["class_order_seed"]) == (5, "natural", 3)


@pytest.mark.parametrize("scenario", [few_shot_class_incremental, few_shot_class_incremental_tuning])
def test_another_order_moves_classes_and_keeps_their_shots(scenario, source):
    natural, drawn = scenario(source, 2, 2, shots=5), scenario(source, 2, 2, shots=5, class_order="seed")
    order = np.random.default_rng(0).permutation(6)
    assert drawn.class_names == tuple(source.class_names[label] for label in order) != natural.class_names
    assert drawn.protocol["class_order"] == "seed"

    def shots(stream):
        later = stream.sessions[stream.protocol["name"] == "few_shot_class_incremental" :]
        named = [(source.class_names[source.train.labels[row]], int(row)) for session in later for row in session.train.indices]
        return {name: sorted(row for other, row in named if other == name) for name, _ in named}

    common = shots(natural).keys() & shots(drawn).keys()
    assert len(common) >= 2 and all(shots(natural)[name] == shots(drawn)[name] for name in common)
    for session in drawn:  # labels are positions in the order of arrival
        assert order[session.train.labels].tolist() == source.train.labels[session.train.indices].tolist()


def test_lists_bring_their_order(source, tmp_path):
    with pytest.raises(
        ValueError, match="index_list brings the order of classes with it, and class_order is 'seed'; leave one of them out"
    ):
        few_shot_class_incremental(source, 2, 2, shots=5, class_order="seed", index_list=tmp_path)


def test_tuning_has_few_shots_in_session_0_too(source):
    stream = few_shot_class_incremental_tuning(source, 2, 2, shots=4)
    assert [len(session.train) for session in stream] == [8, 8, 8]
    assert stream.protocol["name"] == "few_shot_class_incremental_tuning"
    later = few_shot_class_incremental(source, 2, 2, shots=4)
    assert [s.train.indices.tolist() for s in stream][1:] == [s.train.indices.tolist() for s in later][1:]


def test_ten_shots_are_the_default_of_tuning(make_source):
    assert few_shot_class_incremental_tuning(make_source([12] * 4, [1] * 4), 1, 1).protocol["shots"] == 10


@pytest.mark.parametrize("scenario", [few_shot_class_incremental, few_shot_class_incremental_tuning])
def test_no_shots_and_too_few_images(scenario, source):
    with pytest.raises(ValueError, match="shots is the number of training images per class; it must be at least 1, got 0"):
        scenario(source, 2, 2, shots=0)
    with pytest.raises(DataError, match="1 classes have fewer training images than the 8 shots asked for: 'class 005' has 7"):
        scenario(source, 2, 2, shots=8)


def test_only_later_classes_need_the_shots(make_source):
    source = make_source([2, 9], [1, 1])
    assert [len(session.train) for session in few_shot_class_incremental(source, 1, 1, shots=5)] == [2, 5]
    with pytest.raises(DataError, match="'class 000' has 2"):
        few_shot_class_incremental_tuning(source, 1, 1, shots=5)


def test_one_session_alone_is_all_images(source):
    assert [len(session.train) for session in few_shot_class_incremental(source, 6, 5, shots=5)] == [57]


def test_the_standard_sizes(make_source):
    stream = few_shot_class_incremental(make_source([500] * 100, [100] * 100), 60, 5, shots=5)
    assert len(stream) == 9
    assert [len(session.train) for session in stream] == [30_000] + [25] * 8
    assert [sum(len(test.data) for test in session.tests) for session in stream] == [6000 + 500 * t for t in range(9)]


@pytest.mark.parametrize(
    ("classes", "base", "way", "sessions"),
    [
        (102, 12, 10, 10),
        (211, 22, 21, 10),
        (47, 7, 5, 9),
        (10, 1, 1, 10),
        (43, 7, 4, 10),
        (37, 5, 4, 9),
        (196, 28, 21, 9),
        (397, 45, 44, 9),
        (20, 2, 2, 10),
    ],
)
def test_the_sizes_of_coact(make_source, classes, base, way, sessions):
    stream = few_shot_class_incremental_tuning(make_source([2] * classes, [1] * classes), base, way, shots=1)
    assert len(stream) == sessions
    assert len(stream.sessions[-1].new_class_names) == way


def test_an_own_split_follows_the_seed(make_source):
    source = make_source([20, 20, 20])
    first, second = (few_shot_class_incremental(source, 1, 1, shots=2, class_order_seed=seed) for seed in (0, 1))
    assert first.sessions[0].tests[0].data.indices.tolist() != second.sessions[0].tests[0].data.indices.tolist()
    assert not set(first.sessions[0].tests[0].data.indices) & set(first.sessions[0].train.indices)
    assert np.all(first.sessions[0].train.labels == 0)


@pytest.mark.parametrize("scenario", [few_shot_class_incremental, few_shot_class_incremental_tuning])
def test_validation_images_are_some_of_the_shots(scenario, source):
    plain, held = scenario(source, 2, 2, shots=5), scenario(source, 2, 2, shots=5, validation_fraction=0.2)
    assert (plain.validation, held.protocol["validation_fraction"]) == ((), 0.2)
    for t, (before, after) in enumerate(zip(plain, held, strict=True)):
        assert before.validation is None and after.validation is not None
        assert sorted([*after.train.indices, *after.validation.indices]) == sorted(before.train.indices.tolist())
        assert [(test.name, test.candidates) for test in held.validation[t]] == [(test.name, test.candidates) for test in after.tests]
        assert set(after.validation.labels) == set(after.train.labels)
    assert held.sessions[-1].validation.counts(6)[4:].tolist() == [1, 1]
    with pytest.raises(ValueError, match="validation_fraction must be at least 0"):
        scenario(source, 2, 2, shots=5, validation_fraction=1.0)
    with pytest.raises(DataError, match="too few images to part with 10% as validation images"):
        scenario(source, 2, 2, shots=1, validation_fraction=0.1)


def photos(names, seed_of, known=None):
    """8 to train on and 4 to test on of each class; pictures of a class are the same whatever stands beside it."""
    pixels = [np.random.default_rng(seed_of[name]).integers(0, 255, (12, 4, 4), dtype=np.uint8) for name in names]
    images = ImageSet(ArrayStore(np.concatenate(pixels)), np.repeat(np.arange(len(names)), 12))
    tested = np.arange(len(images)) % 12 >= 8
    return ImageSource("photos", tuple(names), images.subset(~tested), images.subset(tested), "test", known=known)


@pytest.mark.parametrize("scenario", [few_shot_class_incremental, few_shot_class_incremental_tuning])
def test_a_collection_that_has_grown_keeps_places_and_shots_of_what_was_taught(scenario):
    seeds = {name: i for i, name in enumerate(("bee", "cat", "dog", "eel", "fox", "ant"))}
    before = scenario(photos(["bee", "cat", "dog", "eel", "fox"], seeds), 2, 1, shots=3)
    records = [
        (content, session.train.describe(i), "train", session.id)
        for session in before
        for i, content in enumerate(content_hashes(session.train))
    ]
    taught = [session.new_class_names for session in before.sessions[:3]]
    now = scenario(photos(["ant", "bee", "cat", "dog", "eel", "fox"], seeds, KnownPictures(records)), 2, 1, shots=3, taught=taught)
    assert now.class_names == ("bee", "cat", "dog", "eel", "ant", "fox")
    for then, today in zip(before.sessions[:3], now.sessions, strict=False):
        assert content_hashes(then.train) == content_hashes(today.train) and then.train.labels.tolist() == today.train.labels.tolist()
    assert [len(session.train) for session in now.sessions[3:]] == [3, 3]
    assert before.protocol == now.protocol
