from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, resolve_class_order

NAMES = ["ant", "bee", "cat", "dog"]


def numbered(count: int) -> list[str]:
    return [str(i) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "start"), [(100, [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]), (200, [168, 136, 51, 9, 183, 101, 171, 99, 42, 159])]
)
def test_pycil_is_one_fixed_order(count, start):
    assert resolve_class_order(numbered(count), "pycil", 0)[:10].tolist() == start
    assert resolve_class_order(numbered(count), "pycil", 5)[:10].tolist() == start


def test_coda_shuffles_by_the_run_and_leaves_run_0_natural():
    assert resolve_class_order(numbered(100), "coda", 1)[:10].tolist() == [53, 37, 65, 51, 4, 20, 38, 9, 10, 81]
    assert resolve_class_order(numbered(100), "coda", 0).tolist() == list(range(100))


def test_natural_and_seed():
    assert resolve_class_order(NAMES, "natural", 3).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(resolve_class_order(numbered(50), "seed", 3), np.random.default_rng(3).permutation(50))


@pytest.mark.parametrize("order", ["natural", "seed", "pycil", "coda"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_every_order_is_a_permutation(order, seed):
    assert sorted(resolve_class_order(numbered(37), order, seed)) == list(range(37))


def test_a_file_of_names(tmp_path):
    file = tmp_path / "order.txt"
    file.write_text("dog\nant\n\n  bee \ncat\n")
    assert resolve_class_order(NAMES, file).tolist() == [3, 0, 1, 2]
    assert resolve_class_order(NAMES, str(file)).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog\nant\nbee", "leaves out 1 of 4 classes: 'cat'"),
        ("dog\nant\ncaat\nbee", "line 3: 'caat' is no class of the data set. Did you mean 'cat'?"),
        ("dog\nant\ndog\ncat\nbee", "line 3: 'dog' stands in line 1 already"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "order.txt").write_text(text)
    with pytest.raises(DataError) as error:
        resolve_class_order(NAMES, tmp_path / "order.txt")
    assert message in str(error.value)
    assert "order.txt" in str(error.value)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'natural'"):
        resolve_class_order(NAMES, "naturel")


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="class_order_seed"):
        resolve_class_order(NAMES, "seed", -1)
