from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, open_images


def test_digits():
    source = open_images("digits")
    assert source.class_names == tuple("0123456789")
    assert source.unsplit is not None
    assert len(source.unsplit) == 1797
    image = source.unsplit[0]["image"]
    assert (image.size, image.mode, image.getextrema()[0]) == ((8, 8), "RGB", (0, 239))


def test_the_own_split_parts_each_class_80_to_20():
    source = open_images("digits")
    assert source.unsplit is not None
    counts = source.unsplit.counts(10)
    np.testing.assert_array_equal(source.test.counts(10), np.round(counts * 0.2))
    together = np.concatenate([source.train.indices, source.test.indices])
    assert sorted(together) == list(range(1797))


def test_the_own_split_is_a_function_of_the_seed(make_source):
    source = make_source([10, 20, 5])
    first, again, other = source.split_by(1), source.split_by(3).split_by(1), source.split_by(2)
    assert first.test.indices.tolist() == again.test.indices.tolist()
    assert first.test.indices.tolist() != other.test.indices.tolist()
    assert first.test.counts(3).tolist() == [2, 4, 1]
    assert first.test_split == "own 80/20 split"


def test_a_source_with_a_test_split_keeps_it(make_source):
    source = make_source([4, 4], [2, 2])
    assert source.split_by(9) is source


def test_an_image_folder_with_a_split(write_folder):
    source = open_images(write_folder({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1, "val/a": 1}))
    assert (source.name, source.test_split, len(source.train), len(source.test)) == ("photos", "test", 5, 2)
    assert source.validation is not None


def test_the_test_split_may_be_the_validation_split(write_folder):
    source = open_images(write_folder({"train/a": 3, "val/a": 2}), test_split="val")
    assert (source.test_split, len(source.test), source.validation) == ("val", 2, None)


def test_a_lone_split_of_any_name_is_parted(write_folder):
    assert len(open_images(write_folder({"test/a": 5, "test/b": 10})).test) == 3


@pytest.mark.parametrize(
    ("counts", "test_split", "message"),
    [
        ({"train/a": 1, "val/a": 1}, "test", "no split 'test'; it has train, val. Name the one to test on with --test_split"),
        ({"test/a": 1, "val/a": 1}, "test", "no split 'train'; it has test, val"),
        ({"train/a": 1, "test/a": 1}, "train", "would test on the training images"),
        ({"train/a": 2}, "validation", "no split 'validation'; it has train"),
    ],
)
def test_missing_splits_are_listed(write_folder, counts, test_split, message):
    with pytest.raises(DataError, match=message):
        open_images(write_folder(counts), test_split=test_split)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "data.xlsx").write_text("a,b")
    with pytest.raises(DataError, match="neither a folder nor a table"):
        open_images(tmp_path / "data.xlsx")
