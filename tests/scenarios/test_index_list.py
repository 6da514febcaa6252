from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, ImageSet
from hf_cl.scenarios.image_store import ArrayStore, FileStore
from hf_cl.scenarios.index_list import ImageFinder, Line


def test_names_that_are_not_there_or_fit_several(tmp_path):

    names = ["train/a/left/1.jpg", "train/b/left/1.jpg", "train/a/2.jpg", "train/c/1/2.jpg", "other/c/1/2.jpg"]
    finder = ImageFinder(ImageSet(FileStore(tmp_path, names), [0] * 5), "training images")

    def find(text):
        return finder.find(Line(tmp_path / "list.txt", 9, text))

    assert [find("X/images/b/left/1.jpg"), find("a/2.jpg"), find(r"a\2.jpg")] == [1, 2, 2]
    with pytest.raises(
        DataError, match=r"list\.txt, line 9: 'left/1\.jpg' fits several training images: train/a/left/1\.jpg, train/b/left/1\.jpg"
    ):
        find("left/1.jpg")
    with pytest.raises(DataError, match=r"line 9: 'b/2\.jpg' is none of the 5 training images, such as 'train/a/left/1\.jpg'"):
        find("b/2.jpg")
    with pytest.raises(DataError, match="is none of"):
        find("2.jpg")


def test_file_names_without_folders_are_found_by_themselves(tmp_path):

    flat = ImageFinder(ImageSet(FileStore(tmp_path, ["x1.jpg", "x2.jpg"]), [0, 0]), "images")
    assert flat.find(Line(tmp_path, 1, "CUB/images/001.A/x2.jpg")) == 1
    nameless = ImageFinder(ImageSet(ArrayStore(np.zeros((2, 1, 1), dtype=np.uint8)), [0, 0]), "images")
    with pytest.raises(DataError, match="known by row number only"):
        nameless.find(Line(tmp_path, 1, "x2.jpg"))
