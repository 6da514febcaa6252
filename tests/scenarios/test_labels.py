from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError
from hf_cl.scenarios.labels import LabelColumn, read_labels


def read(*columns):
    parts = [LabelColumn(f"split '{i}'", values, names) for i, (values, names) in enumerate(columns)]
    names, labels = read_labels("x", "label", parts)
    return names, [part.tolist() for part in labels]


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["b", "a", None], ("a", "b"), [1, 0, -1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([2.0, float("nan"), 10.0], ("2", "10"), [0, -1, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        ([np.int64(3), np.float32(1.0), np.bool_(True)], None, "mixes words"),
        (["3", 3, 4], ("3", "4"), [0, 0, 1]),
        (["007", "7"], ("007", "7"), [0, 1]),
        ([0.5, 1.0], None, r"with a fraction in split '0', and no classes: 0\.5"),
        ([["a", "b"], ["a"]], None, "several labels per picture"),
        (["a", 1], None, r"mixes words \(a\) and numbers \(1\)"),
    ],
)
def test_one_column(values, names, labels):
    if names is None:
        with pytest.raises(DataError, match=labels):
            read((values, None))
    else:
        assert read((values, None)) == (names, [labels])


@pytest.mark.parametrize(
    ("columns", "names", "labels"),
    [
        ([([0, 1], ("a", "b")), ([0, 1], ("b", "a"))], ("a", "b"), [[0, 1], [1, 0]]),
        ([([0], ("a", "b")), ([1], ("c", "a"))], ("a", "b", "c"), [[0], [0]]),
        ([(["b", "a"], None), ([0, 1], ("a", "b"))], ("a", "b"), [[1, 0], [0, 1]]),
        ([([0, 1], ("a", "b")), ([1, 0, None], None)], ("a", "b"), [[0, 1], [1, 0, -1]]),
        ([([0, 1], ("0", "1")), ([1, 0], None)], ("0", "1"), [[0, 1], [1, 0]]),
        ([(["3", "4"], None), ([4, 3], None)], ("3", "4"), [[0, 1], [1, 0]]),
        ([([True], None), (["False", "True"], None)], ("False", "True"), [[1], [0, 1]]),
        ([([0, 7, None], ("a", "b"))], ("a", "b"), [[0, 7, -1]]),
        ([(["a"], None), ([None], None)], ("a",), [[0], [-1]]),
    ],
)
def test_types_that_differ_where_the_meaning_is_one(columns, names, labels):
    assert read(*columns) == (names, labels)


@pytest.mark.parametrize(
    ("columns", "sides"),
    [
        ([(["a", "b"], None), ([0, 1], None)], r"words in split '0' \(a, b\) and numbers in split '1' \(0, 1\)"),
        ([([0, 1], ("a", "b")), (["x"], None)], r"names in split '0' \(a, b\) and words in split '1' \(x\)"),
        ([([0, 1], ("1", "0")), ([1, 0], None)], r"names in split '0' \(1, 0\) and numbers in split '1' \(1, 0\)"),
        ([([0, 1], ("a", "b")), ([0, 1], ("b", "a")), ([1], None)], "names in split '0'.*numbers in split '2'"),
        ([([0, 1], ("a", "b")), ([2], None)], "numbers in split '1'"),
    ],
)
def test_types_that_differ_otherwise_are_refused_with_both_sides(columns, sides):
    with pytest.raises(DataError, match=sides):
        read(*columns)
