from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hf_cl.scenarios import DataError, base_to_novel, cross_dataset, domain_generalization


@pytest.fixture
def source(make_source):
    return make_source([20, 19, 18, 17, 16], [3, 4, 5, 6, 7], name="owner/pets")


def renamed(source, names):
    return dataclasses.replace(source, class_names=tuple(names))


def names_of(stream, test):
    return [stream.class_names[label] for label in test.data.labels]


def test_one_session_of_the_first_half_and_two_tests(source):
    stream = base_to_novel(source)
    (session,) = stream
    assert session.id == 0
    assert session.class_names == session.new_class_names == source.class_names[:3]
    assert session.train.counts(3).tolist() == [16, 16, 16]
    base, novel = session.tests
    assert (base.name, base.candidates, len(base.data)) == ("base", (0, 1, 2), 12)
    assert (novel.name, novel.candidates, len(novel.data)) == ("novel", (3, 4), 13)
    assert set(base.data.labels) == {0, 1, 2}
    assert set(novel.data.labels) == {3, 4}
    assert stream.class_names == source.class_names


def test_the_draw_depends_on_the_seed_and_the_halves_do_not(source):
    first, second = (base_to_novel(source, shots=4, class_order_seed=seed).sessions[0] for seed in (1, 2))
    assert first.class_names == second.class_names
    assert first.train.indices.tolist() != second.train.indices.tolist()


def test_the_protocol(source):
    assert base_to_novel(source, shots=4, class_order_seed=2).protocol == {
        "name": "base_to_novel",
        "dataset": "owner/pets",
        "num_base_classes": 3,
        "classes_per_session": 2,
        "shots": 4,
        "class_order": "natural",
        "class_order_seed": 2,
        "index_list": {"kind": "own_draw", "sha256": None},
        "test_split": "test",
        "validation_fraction": 0.0,
        "left_out_images": 0,
        "details": {},
    }


@pytest.mark.parametrize(("shots", "held"), [(16, 4), (2, 2)])
def test_validation_shots_come_from_the_validation_split(make_source, shots, held):
    source = make_source([20] * 4, [2] * 4, validation=[6] * 4)
    stream = base_to_novel(source, shots=shots)
    ((test,),) = stream.validation
    assert (test.name, test.candidates) == ("base", (0, 1))
    assert test.data.counts(2).tolist() == [held, held]
    assert test.data.describe(0).startswith("validation/")


@pytest.mark.parametrize("validation", [None, [6] * 4])
def test_a_validation_fraction_is_taken_from_the_shots(make_source, validation):
    source = make_source([20] * 4, [2] * 4, **({"validation": validation} if validation else {}))
    whole, held = (base_to_novel(source, shots=10, validation_fraction=fraction) for fraction in (0.0, 0.2))
    (session,), ((test,),) = held.sessions, held.validation
    assert session.validation is test.data and session.validation.counts(2).tolist() == [2, 2]
    assert sorted([*session.train.indices, *test.data.indices]) == sorted(whole.sessions[0].train.indices.tolist())
    stream = cross_dataset(source, [source], shots=10, validation_fraction=0.2)
    (moved,), ((test,),) = stream.sessions, stream.validation
    assert moved.validation is test.data and (test.name, test.candidates) == (source.name, (0, 1, 2, 3)) and len(moved.train) == 4 * 8


def test_without_a_validation_split_nothing_is_held_out(source):
    assert base_to_novel(source).validation == ()


def test_what_base_to_novel_refuses(source, make_source):
    with pytest.raises(DataError, match="fewer training images than the 19 shots asked for: 'class 002' has 18"):
        base_to_novel(source, shots=19)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        base_to_novel(source, shots=0)
    with pytest.raises(DataError, match="has 1 class"):
        base_to_novel(make_source([20], [2]))


def test_novel_classes_need_no_training_images(make_source):
    assert len(base_to_novel(make_source([16, 1], [2, 2])).sessions[0].train) == 16


def test_an_own_split_keeps_test_images_out(make_source):
    (session,) = base_to_novel(make_source([30] * 4), shots=4, class_order_seed=5)
    assert not set(session.train.indices) & set(session.tests[0].data.indices)


def test_cross_dataset_tests_each_target_among_its_own_classes(source, make_source):
    flowers = renamed(make_source([2, 2, 2], [1, 2, 3], name="flowers"), ["rose", "class 001", "tulip"])
    sketch = renamed(make_source([4, 5], name="sketch"), ["tulip", "house"])
    stream = cross_dataset(source, [flowers, sketch])
    (session,) = stream
    assert session.class_names == session.new_class_names == source.class_names
    assert len(session.train) == 5 * 16
    assert stream.class_names == (*source.class_names, "rose", "tulip", "house")
    first, second = session.tests
    assert (first.name, first.candidates) == ("flowers", (5, 1, 6))
    assert (second.name, second.candidates) == ("sketch", (6, 7))
    for target, test in ((flowers.test, first), (sketch.unsplit, second)):
        own = flowers if target is flowers.test else sketch
        assert names_of(stream, test) == [own.class_names[label] for label in target.labels]
    assert stream.protocol["test_split"] == "flowers: test, sketch: all images"


def test_a_target_of_one_split_is_tested_in_full(source, make_source):
    target = make_source([4, 5, 6], name="sketch")
    assert len(cross_dataset(source, [target]).sessions[0].tests[0].data) == 15


def test_the_source_as_a_target_keeps_to_its_test_images(make_source):
    source = make_source([30] * 3, name="pets")
    (session,) = cross_dataset(source, [source], shots=5, class_order_seed=4)
    assert not set(session.train.indices) & set(session.tests[0].data.indices)
    assert len(session.tests[0].data) == 18


def test_a_target_called_like_the_source_is_refused_where_training_images_could_be_tested(make_source):
    source, again = make_source([30] * 3, name="pets"), make_source([30] * 3, name="pets")
    with pytest.raises(DataError, match="called 'pets' like the source"):
        cross_dataset(source, [again], shots=5)


def test_domain_generalization_matches_classes_by_name(source, make_source):
    hard = renamed(make_source([3, 3], [4, 5], name="hard"), [source.class_names[4], source.class_names[1]])
    stream = domain_generalization(source, [hard], shots=2)
    (test,) = stream.sessions[0].tests
    assert test.candidates == (4, 1)
    assert np.bincount(test.data.labels).tolist() == [0, 5, 0, 0, 4]
    assert stream.class_names == source.class_names
    assert stream.protocol["name"] == "domain_generalization"


def test_domain_generalization_refuses_foreign_classes(source, make_source):
    foreign = renamed(make_source([3, 3], [4, 5], name="hard"), ["class 000", "zebra"])
    with pytest.raises(DataError, match="1 classes of 'hard' are no classes of 'owner/pets': 'zebra'"):
        domain_generalization(source, [foreign])


def test_targets_must_be_there_and_tell_apart(source, make_source):
    with pytest.raises(ValueError, match="needs at least one target"):
        cross_dataset(source, [])
    with pytest.raises(DataError, match="'x' occurs more than once"):
        cross_dataset(source, [make_source([3], [1], name="x"), make_source([3], [1], name="x")])
