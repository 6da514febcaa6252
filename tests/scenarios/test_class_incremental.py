from __future__ import annotations

import json

import numpy as np
import pytest

from hf_cl.contracts import ImageDataset, Session
from hf_cl.scenarios import SCENARIOS, DataError, class_incremental, open_images, resolve_class_order
from hf_cl.scenarios.stream import session_sizes


@pytest.mark.parametrize(
    ("classes", "base", "way", "sessions"),
    [
        (100, 10, 10, 10),
        (100, 5, 5, 20),
        (100, 20, 20, 5),
        (100, 50, 10, 6),
        (100, 50, 5, 11),
        (100, 50, 2, 26),
        (200, 40, 40, 5),
        (345, 69, 69, 5),
        (10, 2, 2, 5),
    ],
)
def test_session_counts_of_the_literature(classes, base, way, sessions):
    sizes = session_sizes(classes, base, way)
    assert len(sizes) == sessions
    assert sum(sizes) == classes


def test_a_remainder_is_a_last_smaller_session():
    assert session_sizes(10, 4, 4) == [4, 4, 2]
    assert session_sizes(10, 10, 3) == [10]


@pytest.mark.parametrize(
    ("base", "way", "message"),
    [(0, 10, "num_base_classes=10"), (11, 2, "between 1 and the data set's 10"), (-1, 2, "between 1"), (2, 0, "classes_per_session")],
)
def test_sizes_that_make_no_session(base, way, message):
    with pytest.raises(ValueError, match=message):
        session_sizes(10, base, way)


@pytest.fixture
def source(make_source):
    return make_source([5, 6, 7, 8, 9], [2, 3, 2, 3, 2])


def test_labels_are_positions_in_order_of_arrival(source):
    stream = class_incremental(source, 2, 2, class_order_seed=4)
    order = np.random.default_rng(4).permutation(5)
    assert stream.class_names == tuple(source.class_names[label] for label in order)
    assert [session.new_class_names for session in stream] == [stream.class_names[:2], stream.class_names[2:4], stream.class_names[4:]]
    for session in stream:
        assert session.class_names == stream.class_names[: len(session.class_names)]
        assert set(session.train.labels) == set(range(session.first_new_class, len(session.class_names)))
        for label, row in zip(session.train.labels, session.train.indices, strict=True):
            assert source.train.labels[row] == order[label]


def test_every_training_image_is_taught_once(source):
    rows = np.concatenate([session.train.indices for session in class_incremental(source, 2, 1)])
    assert sorted(rows) == list(range(len(source.train)))


def test_tests_are_those_of_the_sessions_seen_against_all_seen_classes(source):
    stream = class_incremental(source, 2, 2, class_order="natural")
    for session in stream:
        assert [test.name for test in session.tests] == [f"session-{j}" for j in range(session.id + 1)]
        assert {test.candidates for test in session.tests} == {tuple(range(len(session.class_names)))}
    last = stream.sessions[-1]
    assert [len(test.data) for test in last.tests] == [5, 5, 2]
    assert [sorted(set(test.data.labels)) for test in last.tests] == [[0, 1], [2, 3], [4]]
    assert stream.sessions[0].tests[0].data is last.tests[0].data


def test_a_stream_can_be_iterated_again(source):
    stream = class_incremental(source, 2, 2)
    assert len(stream) == 3
    assert list(stream) == list(stream)
    assert all(isinstance(session, Session) for session in stream)


def test_the_split_is_a_function_of_its_arguments(make_source):
    source = make_source([10, 10, 10, 10])

    def rows(**arguments):
        return [(session.new_class_names, session.train.indices.tolist()) for session in class_incremental(source, 2, 2, **arguments)]

    assert rows(class_order_seed=1) == rows(class_order_seed=1)
    assert rows(class_order_seed=1) != rows(class_order_seed=2)
    assert rows(class_order="natural", class_order_seed=1) != rows(class_order="natural", class_order_seed=2)  # the own split


def test_the_protocol_is_what_results_json_wants(source, make_source, tmp_path):
    assert class_incremental(source, 3, 2, "pycil", 5).protocol == {
        "name": "class_incremental",
        "dataset": "birds",
        "num_base_classes": 3,
        "classes_per_session": 2,
        "shots": None,
        "class_order": "pycil",
        "class_order_seed": 5,
        "index_list": None,
        "test_split": "test",
        "validation_fraction": 0.0,
        "left_out_images": 0,
        "details": {},
    }
    (tmp_path / "order.txt").write_text("\n".join(reversed(source.class_names)))
    protocol = class_incremental(make_source([5] * 5), 3, 2, tmp_path / "order.txt").protocol
    assert (protocol["class_order"], protocol["test_split"]) == ("order.txt", "own 80/20 split")
    json.dumps(protocol)


def test_validation_images_leave_training_and_tests_stay(source):
    plain, held = class_incremental(source, 2, 2), class_incremental(source, 2, 2, validation_fraction=0.3)
    assert plain.validation == ()
    assert held.protocol["validation_fraction"] == 0.3
    for t, (before, after) in enumerate(zip(plain, held, strict=True)):
        assert [test.data.indices.tolist() for test in before.tests] == [test.data.indices.tolist() for test in after.tests]
        assert [(test.name, test.candidates) for test in held.validation[t]] == [(test.name, test.candidates) for test in after.tests]
        own = held.validation[t][-1].data
        assert sorted([*after.train.indices, *own.indices]) == before.train.indices.tolist()
        assert set(own.labels) == set(after.train.labels)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_fractions_that_are_none(source, fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        class_incremental(source, 2, 2, validation_fraction=fraction)


def test_digits_in_five_sessions():
    stream = class_incremental(open_images("digits"), 2, 2)
    assert [len(session.class_names) for session in stream] == [2, 4, 6, 8, 10]
    assert sum(len(session.train) for session in stream) + sum(len(test.data) for test in stream.sessions[-1].tests) == 1797
    item = stream.sessions[3].train[5]
    assert item["label"] in (6, 7)
    assert item["image"].size == (8, 8)


def test_images_fulfil_the_contract(source):
    def read(dataset: ImageDataset) -> int:
        return len(dataset) + len(dataset.labels) + len(dataset.indices)

    assert read(class_incremental(source, 2, 2).sessions[0].train) > 0


def test_the_table_of_scenarios_names_each_by_its_protocol(source, make_source):
    assert set(SCENARIOS) == {
        "class_incremental",
        "few_shot_class_incremental",
        "few_shot_class_incremental_tuning",
        "base_to_novel",
        "cross_dataset",
        "domain_generalization",
        "domain_incremental",
        "si_blurry",
    }
    other = make_source([3] * 5, [1] * 5, name="other birds")
    arguments = {"num_base_classes": 2, "classes_per_session": 2}
    transfer = {"targets": [other], "shots": 2}
    for name, options in {
        "class_incremental": arguments,
        "few_shot_class_incremental": {**arguments, "shots": 2},
        "few_shot_class_incremental_tuning": {**arguments, "shots": 2},
        "base_to_novel": {"shots": 2},
        "cross_dataset": transfer,
        "domain_generalization": transfer,
        "domain_incremental": {"targets": [other]},
        "si_blurry": {"num_sessions": 2, "class_order_seed": 1, "drop_leftover": True},
    }.items():
        stream = SCENARIOS[name](source, **options)
        assert stream.protocol["name"] == name
        assert set(stream.protocol) == set(class_incremental(source, 2, 2).protocol)


class TestSplitLists:
    """train.txt and test.txt."""

    @pytest.fixture
    def unsplit(self, make_source):
        return make_source([6, 6, 6], name="owner/imagenet-r")

    def write(self, folder, train, test):
        folder.mkdir(exist_ok=True)
        for name, items in (("train", train), ("test", test)):
            (folder / f"{name}.txt").write_text("".join(f"{item}\n" for item in items))
        return folder

    @pytest.mark.parametrize("as_names", [False, True])
    @pytest.mark.parametrize("subfolder", [False, True])
    def test_lists_make_the_split(self, unsplit, tmp_path, as_names, subfolder):
        rows = np.random.default_rng(0).permutation(18)
        items = ["data/" + unsplit.unsplit.file_names[row].removeprefix("all/") for row in rows] if as_names else list(rows)
        self.write(tmp_path / "imagenet_r" if subfolder else tmp_path, items[:12], items[12:])
        stream = class_incremental(unsplit, 1, 1, index_list=tmp_path)
        assert sorted(row for session in stream for row in session.train.indices) == sorted(rows[:12])
        assert sorted(row for test in stream.sessions[-1].tests for row in test.data.indices) == sorted(rows[12:])
        assert stream.protocol["test_split"] == "index list"
        assert stream.protocol["index_list"]["kind"] == "custom"

    def test_images_in_neither_list_are_reported(self, unsplit, tmp_path, caplog):
        class_incremental(unsplit, 1, 1, index_list=self.write(tmp_path, range(9), range(9, 17)))
        assert "1 of 18 images are in neither list" in caplog.text

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (range(9), [*range(9, 18), 3], r"test.txt, line 10: '3' is the same image as .*train.txt, line 4"),
            ([0, 1, 18], range(9, 18), r"train.txt, line 3: row 18 is not there: it has 18 rows"),
            ([0, -1], range(9, 18), r"line 2: row -1 is not there"),
            (["all/c0/nothing.jpg"], range(9), r"train.txt, line 1: 'all/c0/nothing.jpg' is none of the 18 images"),
            ([], range(9), r"train.txt is empty"),
        ],
    )
    def test_faulty_lines_are_named(self, unsplit, tmp_path, train, test, message):
        with pytest.raises(DataError, match=message):
            class_incremental(unsplit, 1, 1, index_list=self.write(tmp_path, train, test))

    def test_a_class_missing_from_a_list_is_named(self, unsplit, tmp_path):
        labels = unsplit.unsplit.labels
        train = np.flatnonzero(labels != 1)
        with pytest.raises(DataError, match=r"train.txt lists no image of 1 classes: 'class 001'"):
            class_incremental(unsplit, 1, 1, index_list=self.write(tmp_path, train[:8], np.flatnonzero(labels == 1)))

    def test_a_data_set_with_a_test_split_takes_no_lists(self, source, tmp_path):
        with pytest.raises(DataError, match="has a test split of its own"):
            class_incremental(source, 2, 2, index_list=tmp_path)

    def test_folders_without_the_lists_say_what_is_there(self, unsplit, tmp_path):
        (tmp_path / "cub200").mkdir()
        with pytest.raises(DataError, match=r"holds neither train.txt nor imagenet_r/train.txt; its folders are cub200"):
            class_incremental(unsplit, 1, 1, index_list=tmp_path)
        with pytest.raises(DataError, match="is not a folder"):
            class_incremental(unsplit, 1, 1, index_list=tmp_path / "nowhere")


def test_the_order_of_the_stream_is_the_resolved_one(source):
    order = resolve_class_order(source.class_names, "coda", 2)
    assert class_incremental(source, 5, 1, "coda", 2).class_names == tuple(source.class_names[label] for label in order)
