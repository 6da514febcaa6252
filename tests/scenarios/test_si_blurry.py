"""The blurred stream, index by index against the authors' sampler; its properties; and online class-incremental streams."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from hf_cl.scenarios import class_incremental, si_blurry
from hf_cl.scenarios.si_blurry import blurred

STREAMS = json.loads((Path(__file__).parents[1] / "reference" / "si_blurry" / "streams.json").read_text())


def of_case(case, targets, classes):
    percents = case["disjoint_percent"], case["blurry_percent"]
    return blurred(targets, classes, case["num_sessions"], *percents, case["varying"], case["seed"])


@pytest.mark.parametrize(
    "case", STREAMS["cases"], ids=lambda c: "-".join(str(c[key]) for key in ("set", "blurry_percent", "seed", "varying"))
)
def test_the_stream_is_the_official_one(case):
    targets = STREAMS["targets"][case["set"]]
    found = of_case(case, targets, max(targets) + 1)
    assert found.indices == case["indices"]
    assert [sorted(part) for part in found.disjoint] == [sorted(part) for part in case["disjoint_classes"]]
    assert [sorted(part) for part in found.blurry] == [sorted(part) for part in case["blurry_classes"]]
    kept = sum(targets.count(label) for kind in (found.disjoint, found.blurry) for part in kind for label in part)
    assert sum(map(len, found.indices)) + found.lost == kept and (found.lost == 0 or not case["varying"])


@pytest.mark.parametrize("case", STREAMS["big"], ids=lambda c: f"seed-{c['seed']}-{c['varying']}")
def test_streams_of_the_size_of_cifar100(case):
    classes = case["num_classes"]
    found = of_case(case, [i % classes for i in range(classes * case["per_class"])], classes)
    assert [len(images) for images in found.indices] == case["sizes"]
    assert [len(part) for part in found.disjoint] == case["num_disjoint"] and [len(part) for part in found.blurry] == case["num_blurry"]
    assert [images[:5] for images in found.indices] == case["first5"]
    assert [hashlib.sha256(",".join(map(str, images)).encode()).hexdigest() for images in found.indices] == case["sha256"]


@pytest.mark.parametrize("seed", range(5))
def test_what_a_blurred_stream_is(seed):
    targets = [i % 20 for i in range(1000)]
    found = blurred(targets, 20, 5, 50, 50, True, seed)
    images = [image for session in found.indices for image in session]
    assert sorted(images) == list(range(1000))  # every image once
    sessions = {label: {s for s, some in enumerate(found.indices) for i in some if targets[i] == label} for label in range(20)}
    assert all(len(sessions[label]) == 1 for part in found.disjoint for label in part)
    assert any(len(sessions[label]) >= 3 for part in found.blurry for label in part)
    clear = blurred(targets, 20, 5, 50, 0, True, seed)
    assert sum(len({targets[i] for i in some}) for some in clear.indices) == 20  # nothing is scattered
    even, sizes = ([len(some) for some in stream.indices] for stream in (blurred(targets, 20, 5, 50, 50, False, seed), found))
    assert np.std(even) == 0 < np.std(sizes)


@pytest.fixture
def birds(make_source):
    return make_source([8] * 6, [2] * 6, name="birds")


def test_classes_count_in_order_of_appearance_and_are_exposed_as_they_come(birds):
    stream = si_blurry(birds, num_sessions=3, class_order_seed=2, drop_leftover=True)
    seen = 0
    for session in stream:
        come = np.maximum(np.maximum.accumulate(session.train.labels) + 1, seen)
        assert list(session.exposed) == come.tolist() and session.exposed[-1] == len(session.class_names)
        new = [label for i, label in enumerate(session.train.labels) if label >= seen and label not in session.train.labels[:i]]
        assert new == list(range(seen, len(session.class_names)))  # the first columns, always
        seen = len(session.class_names)
        assert set(session.tests[-1].data.labels) == set(session.own) or not session.new_class_names
    names = {int(i): birds.class_names[label] for i, label in zip(birds.train.indices, birds.train.labels, strict=True)}
    for session in stream:
        assert [session.class_names[label] for label in session.train.labels] == [names[int(i)] for i in session.train.indices]
    assert len(stream.protocol["details"]["stream_sha256"]) == 3


def test_class_incremental_online(birds):
    stream = class_incremental(birds, 2, 2, online=True)
    offline = class_incremental(birds, 2, 2)
    for session, other in zip(stream, offline, strict=True):
        assert sorted(session.train.indices) == sorted(other.train.indices) and list(session.train.indices) != sorted(session.train.indices)
        assert set(session.new_class_names) == set(other.new_class_names) and session.exposed is not None
    assert stream.protocol["details"] == {"online": True} and offline.protocol["details"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disjoint_percent": 101}, "disjoint_percent must lie between 0 and 100"),
        ({"num_sessions": 9}, "between 1 and the data set's 6 classes"),
        ({"num_sessions": 4}, r"make no equal groups for 4 sessions: .* Choose another num_sessions, or say drop_leftover: true"),
    ],
)
def test_what_makes_no_stream_is_refused(birds, options, message):
    with pytest.raises(ValueError, match=message):
        si_blurry(birds, **options)


def test_an_online_stream_holds_nothing_out(birds):
    with pytest.raises(ValueError, match="holds no validation images out"):
        class_incremental(birds, 2, 2, online=True, validation_fraction=0.25)
