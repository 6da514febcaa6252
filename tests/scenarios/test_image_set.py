from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_cl.scenarios import DataError, ImageSet, UnreadableImageError
from hf_cl.scenarios.image_store import ArrayStore, ColumnStore, FileStore


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(ArrayStore(np.arange(6, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)), [0, 1, 2, 0, 1, 2])


def test_an_item_is_image_label_and_index(images):
    item = images[4]
    assert (item["label"], item["index"], item["image"].mode, item["image"].getpixel((0, 0))) == (1, 4, "RGB", (4, 4, 4))
    assert type(item["label"]) is int
    assert type(item["index"]) is int


def test_indices_survive_subsets(images):
    part = images.subset([5, 3, 0]).subset(np.array([True, False, True]))
    assert part.indices.tolist() == [5, 0]
    assert [part[i]["image"].getpixel((0, 0))[0] for i in range(2)] == [5, 0]


def test_an_empty_subset_is_empty(images):
    assert len(images.subset([])) == 0


def test_of_classes_keeps_order_and_relabel_maps(images):
    part = images.of_classes([2, 0]).relabel([1, 9, 0])
    assert part.indices.tolist() == [0, 2, 3, 5]
    assert part.labels.tolist() == [1, 0, 1, 0]
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_iteration_ends(images):
    assert [item["index"] for item in images] == list(range(6))


def test_labels_and_indices_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        ImageSet(FileStore(Path(), ["a", "b"]), [0])


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"x\.jpg cannot be read as an image: no image format that hf_cl opens"):
        ImageSet(FileStore(tmp_path, ["x.jpg"]), [0])[0]
    assert issubclass(UnreadableImageError, DataError)


def test_a_file_that_went_away_is_named_once(tmp_path):
    with pytest.raises(UnreadableImageError) as error:
        ImageSet(FileStore(tmp_path, ["x.jpg"]), [0])[0]
    assert str(error.value) == "x.jpg cannot be read as an image: No such file or directory."


@pytest.mark.parametrize("error", [SyntaxError("broken PNG file"), RuntimeError("Failed to decode frame 0"), EOFError()])
def test_whatever_a_plugin_raises_names_the_image(monkeypatch, error):
    def decode(self, row):
        raise error

    monkeypatch.setattr(FileStore, "decode", decode)
    with pytest.raises(UnreadableImageError, match=rf"x\.avif cannot be read as an image: {str(error) or 'EOFError'}\."):
        ImageSet(FileStore(Path(), ["x.avif"]), [0])[0]


def test_a_decompression_bomb_is_unreadable(tmp_path, monkeypatch):
    Image.new("L", (50, 50)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        ImageSet(FileStore(tmp_path, ["bomb.png"]), [0])[0]


def test_a_truncated_file_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError, match="truncated"):
        ImageSet(FileStore(tmp_path, ["x.jpg"]), [0])[0]


def test_column_images_are_decoded_on_access_and_named_by_row(table):
    store = ColumnStore(table([0, 1, 0]), "img", "train")
    assert store.decode(2).getpixel((0, 0)) == (20, 10, 20)
    assert store.describe(2) == "train row 2"
    assert store.file_names is None


def test_column_images_of_files_keep_their_names(tmp_path, table, picture):
    picture().save(tmp_path / "one.png")
    dataset = table([0, 1]).remove_columns("img").add_column("img", [str(tmp_path / "one.png")] * 2)
    store = ColumnStore(dataset, "img", "test")
    assert store.file_names == (str(tmp_path / "one.png"),) * 2
    assert store.decode(1).size == (6, 4)
    assert store.describe(1) == f"test row 1 ({tmp_path / 'one.png'})"


def test_a_row_without_an_image_is_unreadable(table):
    dataset = table([0, 1]).select([0])
    empty = dataset.from_dict({"img": [None], "label": [0]}, features=dataset.features)
    with pytest.raises(UnreadableImageError, match=r"train row 0 .*the row holds no image"):
        ImageSet(ColumnStore(empty, "img", "train"), [0])[0]
