from __future__ import annotations

import logging
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from hf_cl.scenarios import DataError, UnreadableImage, class_incremental, find_unreadable, open_images
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.splits import Splits
from hf_cl.scenarios.validation import validate


def spoil(*files) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:40])


def test_sound_data_passes(write_folder):
    assert len(open_images(write_folder({"train/a": 2, "test/a": 1})).train) == 2


def test_unreadable_images_are_found_in_order_with_file_and_cause(write_folder):
    root = write_folder({"a": 5})
    spoil(root / "a" / "001.png")
    (root / "a" / "003.png").write_text("<html>404</html>")
    images = ImageSet(open_images(root, skip_bad_images=True).train.store, [0] * 5)
    progress = []
    found = find_unreadable(images, num_threads=2, progress=lambda done, total: progress.append((done, total)))
    assert [(bad.position, bad.where) for bad in found] == [(1, "a/001.png"), (3, "a/003.png")]
    assert found[1].cause == "no image format that hf_cl opens"
    assert progress == [(5, 5)]


def test_everything_wrong_is_one_error(write_parquet):
    folder = write_parquet({"train-0": [0, None, 1, 0], "test-0": [0, 0]})
    bad = UnreadableImage(0, "train row 0", "cut off")
    with pytest.raises(DataError) as error:
        open_images(folder, check=lambda images: [bad] if len(images) == 4 else [])
    assert str(error.value).splitlines() == [
        "tables cannot be used as it is:",
        "  train: 1 unreadable image: train row 0 (cut off)",
        "  train: 1 image without a valid label: train row 1 (no label)",
        "  test: 1 class has no images: 'bee'",
        "  --skip_bad_images leaves these images and classes out and goes on.",
    ]


def test_ten_offenders_are_listed_and_all_are_counted(write_folder):
    root = write_folder({"train/a": 14, "test/a": 1})
    spoil(*list((root / "train" / "a").glob("*.png"))[:12])
    with pytest.raises(DataError) as error:
        open_images(root)
    line = str(error.value).splitlines()[1]
    assert line.startswith("  train: 12 unreadable images: ")
    assert line.count(".png") == 10
    assert line.endswith(", ...")


def test_bad_images_are_left_out_and_logged(write_folder, caplog):
    root = write_folder({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
    spoil(root / "train" / "a" / "001.png")
    with caplog.at_level(logging.WARNING):
        source = open_images(root, skip_bad_images=True)
    assert source.train.indices.tolist() == [0, 2, 3, 4]
    assert "train/a/001.png" in caplog.text
    assert source.left_out_images == 1 and class_incremental(source, 1, 1).protocol["left_out_images"] == 1


def test_images_of_a_left_out_class_count_and_an_own_split_keeps_the_count(write_folder):
    root = write_folder({"a": 4, "b": 3, "c": 1})
    spoil(root / "a" / "001.png")
    source = open_images(root, skip_bad_images=True)  # a class of one image cannot be parted
    assert source.class_names == ("a", "b") and source.left_out_images == 2
    assert source.split_by(3).left_out_images == 2


def test_taught_classes_need_images_to_test_on_alone(write_folder):
    root = write_folder({"train/a": 0, "train/b": 2, "test/a": 1, "test/b": 1})
    with pytest.raises(DataError, match="train: 1 class has no images: 'a'"):
        open_images(root)
    source = open_images(root, taught=["a"])
    assert source.class_names == ("a", "b") and source.train.labels.tolist() == [1, 1]
    sessions = list(class_incremental(source, 1, 1, class_order="natural"))
    assert [len(session.train) for session in sessions] == [0, 2]
    with pytest.raises(DataError, match="test: 1 class has no images: 'c'"):
        open_images(write_folder({"train/c": 2}), taught=["c"])


def test_classes_without_images_are_left_out_and_labels_close_up(write_folder, caplog):
    root = write_folder({"train/a": 1, "train/b": 2, "train/c": 2, "test/b": 1, "test/c": 1, "test/d": 1})
    with pytest.raises(DataError, match="test: 1 class has no images: 'a'"):
        open_images(root)
    with caplog.at_level(logging.WARNING):
        source = open_images(root, skip_bad_images=True)
    assert source.class_names == ("b", "c")
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert source.train.indices.tolist() == [1, 2, 3, 4]
    assert source.test.labels.tolist() == [0, 1]
    assert "train: 1 class has no images: 'd'" in caplog.text


def test_a_class_of_one_image_cannot_be_split(write_folder):
    with pytest.raises(DataError, match="data: 1 class has fewer than 2 images: 'b'"):
        open_images(write_folder({"a": 3, "b": 1}))


def test_an_unlabelled_test_split_names_the_option(write_parquet):
    folder = write_parquet({"train-0": [0, 1], "test-0": [None, None], "validation-0": [0, 1]})
    with pytest.raises(DataError, match=r"none of the images to test on has a label\. Name another split with --test_split"):
        open_images(folder)
    assert open_images(folder, test_split="validation").test_split == "validation"


def test_the_validation_split_may_lack_classes(write_parquet):
    source = open_images(write_parquet({"train-0": [0, 1], "test-0": [0, 1], "validation-0": [1]}))
    assert source.validation is not None


def splits(labels, class_names) -> Splits:
    class Blank:
        file_names = None

        def __len__(self):
            return len(labels)

        def open(self, row):
            raise AssertionError("not looked at")

        def describe(self, row):
            return f"row {row}"

    return Splits({"train": ImageSet(Blank(), labels), "test": ImageSet(Blank(), labels)}, class_names)


def unchecked(images):
    return []


def test_labels_out_of_range_are_named():
    with pytest.raises(DataError, match=r"row 2 \(label 7, classes are 0..1\)"):
        validate("x", splits([0, 1, 7], ("a", "b")), skip_bad_images=False, check=unchecked)


@pytest.mark.parametrize(
    ("names", "shown"),
    [(("a", "a "), "'a' and 'a '"), (("caf\u00e9", "cafe\u0301"), "'caf\u00e9' and 'cafe\\u0301'")],
)
def test_names_that_look_alike_are_an_error_that_skipping_does_not_cure(names, shown):
    for skip in (False, True):
        with pytest.raises(DataError, match=re.escape(f"class names that look the same: {shown}; rename them")):
            validate("x", splits([0, 1], names), skip_bad_images=skip, check=unchecked)


def test_names_that_are_nearly_the_same_are_said(caplog):
    names = ("Apple", "apple", "sweet pepper", "sweet_pepper", "pear")
    assert validate("x", splits([*range(5)] * 2, names), skip_bad_images=False, check=unchecked).class_names == names
    assert "x: classes with nearly the same name: 'Apple' and 'apple', 'sweet pepper' and 'sweet_pepper'." in caplog.text


def test_an_empty_name_is_an_error():
    with pytest.raises(DataError, match="a class has an empty name"):
        validate("x", splits([0, 1], ("a", " ")), skip_bad_images=False, check=unchecked)


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match="no class is left"):
        validate("x", splits([-1, 5], ("a", "b")), skip_bad_images=True, check=lambda images: [])


def test_progress_is_a_partial(write_folder):
    calls = []
    open_images(write_folder({"a": 3, "b": 3}), check=partial(find_unreadable, progress=lambda *now: calls.append(now)))
    assert calls == [(6, 6)]


def test_large_sets_report_progress_by_pieces():
    done = []
    images = splits(np.zeros(2500, dtype=int), ("a",)).images["train"]
    images.store.open = lambda row: Image.new("RGB", (2, 2))
    assert find_unreadable(images, num_threads=1, progress=lambda now, total: done.append(now)) == []
    assert done == [1024, 2048, 2500]
