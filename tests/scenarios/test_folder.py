from __future__ import annotations

import logging

import pytest

from hf_cl.scenarios import DataError
from hf_cl.scenarios.folder import read_image_folder


def test_classes_are_the_sorted_folders(write_folder):
    splits = read_image_folder(write_folder({"dog": 2, "ant": 1, "Zebra": 1}), "test")
    assert splits.class_names == ("Zebra", "ant", "dog")
    images = splits.images["data"]
    assert images.file_names == ["Zebra/000.png", "ant/000.png", "dog/000.png", "dog/001.png"]
    assert images.labels.tolist() == [0, 1, 2, 2]
    assert images[3]["image"].getpixel((0, 0)) == (1, 10, 20)


def test_train_and_test_folders_share_their_classes(write_folder):
    splits = read_image_folder(write_folder({"train/a": 2, "train/b": 1, "test/b": 3}), "test")
    assert splits.class_names == ("a", "b")
    assert splits.images["train"].labels.tolist() == [0, 0, 1]
    assert splits.images["test"].labels.tolist() == [1, 1, 1]
    assert splits.images["test"].indices.tolist() == [0, 1, 2]


def test_odd_names_and_nested_folders(write_folder):
    splits = read_image_folder(
        write_folder({"a [1] *": 1, "n02/left/far": 1, "n02/right": 1, "ünder<score>": 1, ".hidden": 1, "__MACOSX": 1}), "test"
    )
    assert splits.class_names == ("a [1] *", "n02", "ünder<score>")
    assert splits.images["data"].labels.tolist() == [0, 1, 1, 2]
    assert splits.images["data"][0]["image"].size == (6, 4)


def test_classes_may_be_called_like_splits(write_folder):
    splits = read_image_folder(write_folder({"train": 2, "tram": 2, "test": 1}), "test")
    assert splits.class_names == ("test", "train", "tram")
    assert set(splits.images) == {"data"}


def test_a_class_called_like_a_split_may_hold_folders_beside_its_images(write_folder):
    splits = read_image_folder(write_folder({"train": 2, "train/more": 1, "tram": 2}), "test")
    assert splits.class_names == ("train", "tram")
    assert splits.images["data"].labels.tolist() == [0, 0, 0, 1, 1]


def test_a_folder_beside_the_splits_adds_no_classes(write_folder):
    splits = read_image_folder(write_folder({"train/a": 1, "test/a": 1, "drafts/x": 1}), "test")
    assert splits.class_names == ("a",)
    assert set(splits.images) == {"train", "test", "drafts"}


def test_a_named_test_split_is_a_split(write_folder):
    splits = read_image_folder(write_folder({"train/a": 1, "holdout/a": 1, "holdout/b": 1}), "holdout")
    assert splits.class_names == ("a", "b")


def test_images_beside_the_class_folders_are_reported(write_folder, picture, caplog):
    root = write_folder({"train/a": 1, "test/a": 1})
    picture().save(root / "cover.png")
    picture().save(root / "train" / "preview.png")
    with caplog.at_level(logging.WARNING):
        splits = read_image_folder(root, "test")
    assert len(splits.images["train"]) == 1
    assert "cover.png" in caplog.text
    assert "train/preview.png" in caplog.text


def test_an_empty_class_folder_is_a_class(write_folder):
    root = write_folder({"a": 1, "b": 0})
    (root / "b" / "notes.txt").write_text("none yet")
    assert read_image_folder(root, "test").class_names == ("a", "b")


def test_links_are_followed_but_not_in_circles(write_folder):
    root, elsewhere = write_folder({"a": 1}), write_folder({"b": 2}, name="elsewhere")
    (root / "b").symlink_to(elsewhere / "b")
    (root / "a" / "up").symlink_to(root)
    assert len(read_image_folder(root, "test").images["data"]) == 3


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 0}, "holds no images"),
        ({"train": 2, "test": 1}, "no class folders. Expected .*/test/<class>"),
        ({".": 2}, "no class folders"),
    ],
)
def test_what_is_no_image_folder(write_folder, counts, message):
    with pytest.raises(DataError, match=message):
        read_image_folder(write_folder(counts), "test")
