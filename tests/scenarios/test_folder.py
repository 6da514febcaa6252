from __future__ import annotations

import logging

import pytest
from datasets.data_files import SPLIT_KEYWORDS
from PIL import Image

from hf_cl.scenarios import DataError, open_images, picture_files
from hf_cl.scenarios.folder import read_image_folder
from hf_cl.scenarios.splits import split_kind


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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("train_set", "test_set"),
        ("trainset", "testset"),
        ("my_train", "my_test"),
        ("TRAIN", "eval"),
    ],
)
def test_splits_in_every_spelling(write_folder, train, test):
    source = open_images(write_folder({f"{train}/cat": 3, f"{train}/dog": 3, f"{test}/cat": 2, f"{test}/dog": 1}))
    assert (source.class_names, len(source.train), len(source.test), source.test_split) == (("cat", "dog"), 6, 3, "test")


def test_words_of_datasets_are_all_known():
    for kind, words in SPLIT_KEYWORDS.items():
        assert {split_kind(word) for word in words} == {str(kind)}


def test_splits_may_lie_inside_of_the_classes(write_folder):
    source = open_images(write_folder({"cat/train": 3, "cat/test": 1, "dog/Train": 2, "dog/test": 2}))
    assert (source.class_names, source.train.labels.tolist(), source.test.labels.tolist()) == (("cat", "dog"), [0, 0, 0, 1, 1], [0, 1, 1])
    with pytest.raises(DataError, match="those of hen do not"):
        open_images(write_folder({"hen": 3}))


def test_words_of_a_class_are_no_split(write_folder):
    splits = read_image_folder(write_folder({"test tube/left": 2, "cup": 2, "train station": 1}), "test")
    assert splits.class_names == ("cup", "test tube", "train station")


def test_splits_beside_classes_are_asked_about(write_folder):
    with pytest.raises(DataError, match="splits or classes"):
        read_image_folder(write_folder({"train/a": 2, "cat": 2}), "test")


def test_two_spellings_of_one_split_are_asked_about(write_folder):
    with pytest.raises(DataError, match="train1 and train2 may all be the split 'train'"):
        open_images(write_folder({"train1/a": 2, "train2/a": 2, "test/a": 2}))


def test_splits_that_are_not_used_are_said(write_folder, caplog):
    open_images(write_folder({"train/a": 2, "test/a": 2, "drafts/a": 1}))
    assert "splits that are not used: drafts (1 images)" in caplog.text


@pytest.mark.parametrize(
    "inner", ["photos/cat photos/dog", "a/b/cat a/b/dog", "photos/train/cat photos/train/dog photos/test/cat photos/test/dog"]
)
def test_a_folder_around_everything_is_looked_into(write_folder, inner, caplog):
    source = open_images(write_folder(dict.fromkeys(inner.split(), 4)))
    assert source.class_names == ("cat", "dog")
    assert "one folder around everything" in caplog.text


def test_a_lone_class_with_its_photos_is_no_folder_around(write_folder):
    assert open_images(write_folder({"cat": 4})).class_names == ("cat",)


@pytest.mark.parametrize("junk", ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", ".thumbs", "@Recycle", "lost+found"])
def test_what_drives_and_systems_put_into_folders_is_no_photo(write_folder, junk):
    splits = read_image_folder(write_folder({"cat": 2, "dog": 2, f"cat/{junk}/0.png": 3, junk: 2}), "test")
    assert (splits.class_names, len(splits.images["data"])) == (("cat", "dog"), 4)


def test_pictures_that_are_not_opened_are_counted_in_a_line(write_folder, picture, caplog, monkeypatch):
    monkeypatch.setattr(picture_files, "opens_heif", lambda: False)
    root = write_folder({"cat": 3, "dog": 3})
    for number in range(4):
        (root / "cat" / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    picture().save(root / "dog" / "phone", format="JPEG")
    (root / "dog" / "logo.svg").write_text("<svg/>")
    (root / "dog" / "raw.CR2").write_bytes(b"II*\0")
    (root / "dog" / "notes").write_text("not a picture")
    open_images(root)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "4 .heic, 1 .svg, 1 without a suffix" in said
    assert "1 .cr2" in said
    assert "'.[heic]'" in said


def test_photos_of_phones_are_opened_with_the_extra(write_folder, picture):
    pillow_heif = pytest.importorskip("pillow_heif")
    root = write_folder({"cat": 2, "dog": 2})
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 10, 20))).save(root / "cat" / "IMG_1.HEIC")
    source = open_images(root)
    assert source.unsplit is not None
    assert source.unsplit.counts(2).tolist() == [3, 2]
    assert {source.unsplit[i]["image"].size for i in source.unsplit.positions_of(0)} == {(64, 48), (6, 4)}


def test_a_folder_called_like_what_is_shipped_is_asked_about(write_folder, monkeypatch):
    root = write_folder({"one": 3, "two": 3}, name="digits")
    monkeypatch.chdir(root.parent)
    with pytest.raises(DataError, match=r"say \./digits for yours"):
        open_images("digits")
    assert open_images("./digits").class_names == ("one", "two")


@pytest.mark.parametrize("above", [("train",), ("train", "test"), ("Training", "Eval")])
def test_folders_called_like_splits_on_two_levels_are_asked_about(write_folder, above):
    root = write_folder({f"{one}/{other}": 2 for one in above for other in ("train", "test")})
    with pytest.raises(DataError, match=r"and so are those inside them \(test, train\)\. Which are the classes\?"):
        read_image_folder(root, "test")


@pytest.mark.parametrize("above", [("train",), ("train", "test")])
def test_folders_called_like_splits_with_images_of_their_own_are_asked_about(write_folder, above):
    root = write_folder({place: 2 for one in above for place in (one, f"{one}/left")})
    with pytest.raises(DataError, match=r"each with images of its own beside its folders\. Are they splits or classes"):
        read_image_folder(root, "test")
