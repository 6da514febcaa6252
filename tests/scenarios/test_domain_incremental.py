"""One domain after the other: classes by name, tests of all domains so far, splits, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_cl.scenarios import DataError, domain_incremental


def renamed(source, names, name):
    return replace(source, class_names=tuple(names), name=name)


@pytest.fixture
def domains(make_source):
    photos = renamed(make_source([4, 6, 5], [2, 1, 3], name="photos"), ["cat", "dog", "hen"], "photos")
    sketches = renamed(make_source([3, 7], [2, 2], name="sketches"), ["hen", "cat"], "sketches")
    paintings = renamed(make_source([5, 3], [1, 2], name="paintings"), ["owl", "dog"], "paintings")
    return photos, sketches, paintings


def test_classes_are_one_by_their_names_and_new_ones_follow(domains):
    stream = domain_incremental(domains[0], domains[1:])
    assert stream.class_names == ("cat", "dog", "hen", "owl")
    assert [session.new_class_names for session in stream] == [("cat", "dog", "hen"), (), ("owl",)]
    assert [list(session.own) for session in stream] == [[0, 1, 2], [0, 1, 2], [3]]
    counts = [np.bincount(session.train.labels, minlength=4).tolist() for session in stream]
    assert counts == [[4, 6, 5, 0], [7, 0, 3, 0], [0, 3, 0, 5]]
    assert stream.protocol["details"] == {"domains": ["photos", "sketches", "paintings"]}
    assert stream.protocol["test_split"] == "photos: test, sketches: test, paintings: test"


def test_all_domains_so_far_are_tested_on_the_same_objects(domains):
    stream = domain_incremental(domains[0], domains[1:])
    last = stream.sessions[2].tests
    assert [test.name for test in last] == ["session-0", "session-1", "session-2"]
    assert all(test.candidates == (0, 1, 2, 3) for test in last)
    assert [test.own for test in last] == [(0, 1, 2), (0, 2), (1, 3)]
    assert last[0].data is stream.sessions[0].tests[0].data
    assert np.bincount(last[2].data.labels, minlength=4).tolist() == [0, 2, 0, 1]
    assert stream.sessions[0].tests[0].candidates == (0, 1, 2)


def test_domains_without_a_test_split_are_parted_by_the_seed_and_validation_leaves_training(make_source):
    first, second = (renamed(make_source([20, 20], name=name), ["a", "b"], name) for name in ("x", "y"))
    one, again, other = (domain_incremental(first, [second], seed, validation_fraction=0.25) for seed in (1, 1, 2))
    for session, same in zip(one, again, strict=True):
        assert list(session.train.indices) == list(same.train.indices)
        trained, held = set(session.train.indices), set(session.validation.indices)
        tested = set(session.tests[-1].data.indices)
        assert len(trained) == 24 and len(held) == 8 and len(tested) == 8 and not trained & held and not trained & tested
    assert list(one.sessions[1].train.indices) != list(other.sessions[1].train.indices)
    assert [len(tests) for tests in one.validation] == [1, 2] and one.validation[1][1].own == (0, 1)


@pytest.mark.parametrize(
    ("targets", "more", "message"),
    [((), {}, "--targets sketches,paintings"), ((0,), {}, "'photos' occurs more than once"), ((1,), {"validation_fraction": 1}, "below 1")],
)
def test_what_is_no_stream_of_domains_is_refused(domains, targets, more, message):
    with pytest.raises((DataError, ValueError), match=message):
        domain_incremental(domains[0], [domains[i] for i in targets], **more)
