from __future__ import annotations

import datasets
import pytest

from hf_cl.scenarios import DataError
from hf_cl.scenarios.columns import read_columns

COARSE = (datasets.ClassLabel(names=["insect", "other"]), [0, 0, 0])


def test_the_only_image_and_label_columns_are_found(table):
    splits = read_columns("x", {"train": table([1, 0, 1], note=(datasets.Value("string"), ["a", "b", "c"]))}, None, None)
    assert splits.class_names == ("ant", "bee")
    assert splits.images["train"].labels.tolist() == [1, 0, 1]
    assert splits.images["train"][2]["image"].getpixel((0, 0)) == (20, 10, 20)


def test_two_label_columns_are_listed_and_one_can_be_named(table):
    tables = {"train": table([1, 0, 1], coarse=COARSE)}
    with pytest.raises(DataError) as error:
        read_columns("x", tables, None, None)
    assert str(error.value).splitlines() == [
        "'x': its columns do not tell label_column: img (Image), label (ClassLabel of 2), coarse (ClassLabel of 2).",
        "Name the column with --label_column.",
    ]
    assert read_columns("x", tables, None, "coarse").class_names == ("insect", "other")


def test_both_columns_unclear_is_one_error(table):
    tables = {"train": table([1, 0, 1], coarse=COARSE).remove_columns("img")}
    with pytest.raises(DataError, match="do not tell image_column and label_column"):
        read_columns("x", tables, None, None)


def test_a_mistyped_column_gets_the_nearest(table):
    with pytest.raises(DataError, match=r"no column 'lable' \(label_column\).*Did you mean 'label'"):
        read_columns("x", {"train": table([0])}, None, "lable")


def test_a_column_of_the_wrong_type_is_refused(table):
    with pytest.raises(DataError, match=r"column 'img' \(label_column\) is Image"):
        read_columns("x", {"train": table([0])}, None, "img")
    with pytest.raises(DataError, match=r"numbers with a fraction in split 'train', and no classes: 1\.5"):
        read_columns("x", {"train": table([0], weight=(datasets.Value("float32"), [1.5]))}, None, "weight")


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [("int64", [10, 9, None, 10], ("9", "10")), ("string", ["b", "a", None, "b"], ("a", "b")), ("uint8", [3, 1, None, 3], ("1", "3"))],
)
def test_integers_and_strings_are_classes_when_named(table, kind, values, names):
    tables = {"train": table([0] * 4, kind=(datasets.Value(kind), values))}
    splits = read_columns("x", tables, None, "kind")
    assert splits.class_names == names
    assert splits.images["train"].labels.tolist() == [1, 0, -1, 1]


def test_strings_of_all_splits_make_the_classes(table):
    tables = {"train": table([0], kind=(datasets.Value("string"), ["b"])), "test": table([0], kind=(datasets.Value("string"), ["a"]))}
    splits = read_columns("x", tables, None, "kind")
    assert splits.class_names == ("a", "b")
    assert splits.images["train"].labels.tolist() == [1]


def test_string_classes_are_sorted(table):
    names = [f"kind {i}" for i in range(9)]
    tables = {"train": table([0] * 9, kind=(datasets.Value("string"), names[::-1]))}
    assert read_columns("x", tables, None, "kind").class_names == tuple(names)


def test_missing_class_labels_are_kept_as_missing(table):
    assert read_columns("x", {"train": table([0, None, 1])}, None, None).images["train"].labels.tolist() == [0, -1, 1]


def test_images_may_be_bytes_or_paths_when_named(table, tmp_path, picture):
    picture(red=77).save(tmp_path / "x.png")
    paths = table([0], file=(datasets.Value("string"), [str(tmp_path / "x.png")]))
    content = table([0], raw=(datasets.Value("binary"), [(tmp_path / "x.png").read_bytes()]))
    for tables, column in (({"train": paths}, "file"), ({"train": content}, "raw")):
        assert read_columns("x", tables, column, None).images["train"][0]["image"].getpixel((0, 0))[0] == 77


def test_splits_may_list_their_classes_in_another_order(table):
    splits = read_columns("x", {"train": table([0, 1]), "test": table([0, 1, 1], names=("bee", "ant"))}, None, None)
    assert splits.class_names == ("ant", "bee")
    assert splits.images["train"].labels.tolist() == [0, 1]
    assert splits.images["test"].labels.tolist() == [1, 0, 0]


def test_a_split_without_the_column_is_refused(table):
    with pytest.raises(DataError, match="split 'test' has no column"):
        read_columns("x", {"train": table([0]), "test": table([0]).remove_columns("label")}, None, None)
