"""Pictures without labels, from whatever `--dataset` takes by name."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from hf_cl.scenarios import DataError
from hf_cl.scenarios.image_set import NO_LABEL
from hf_cl.scenarios.unlabelled import read_unlabelled


def reds(images):
    """What the pictures of `picture` are told apart by."""
    assert set(images.labels.tolist()) == {NO_LABEL}
    return sorted(images.decode(i).getpixel((0, 0))[0] for i in range(len(images)))


def test_a_folder_of_photos_in_any_depth(write_folder, caplog):
    root = write_folder({"a/deep": 2, "test tubes": 1, ".": 1, "train/x": 1, "test/x": 3})
    found = read_unlabelled(root)
    assert reds(found) == [0, 0, 0, 0, 1]
    assert "what is called test or validation is left out: test/x/000.png, test/x/001.png, test/x/002.png." in caplog.text
    assert len(read_unlabelled(root / "test")) == 3, "who names it has it"


@pytest.mark.parametrize("labelled", [True, False])
def test_tables_with_labels_or_without(write_parquet, caplog, labelled):
    root = write_parquet({"train-0": [0, None], "unlabeled-0": [1], "test-0": [1, 0, 1]})
    if not labelled:
        for file in root.glob("*.parquet"):
            datasets.Dataset.from_parquet(str(file)).remove_columns("label").to_parquet(str(file))
    with pytest.raises(DataError, match="the names of some files tell no split: unlabeled-0"):
        read_unlabelled(root)
    (root / "unlabeled-0.parquet").unlink()
    assert reds(read_unlabelled(root)) == [0, 10]
    assert "what is called test or validation is left out: test." in caplog.text
    assert reds(read_unlabelled(root / "test-0.parquet")) == [0, 10, 20], "there is nothing else"


def test_a_hub_data_set(table, monkeypatch, caplog):
    parts: Any = {"train": table([0, 1]), "unlabeled": table([None] * 3), "valid": table([1])}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, revision: datasets.DatasetDict(parts))
    found = read_unlabelled("owner/birds:clean@v1")
    assert reds(found) == [0, 0, 10, 10, 20] and "left out: valid." in caplog.text
    assert found.describe(2).startswith("train and unlabeled row 2")


def test_a_table_of_paths_and_one_that_says_nothing_of_its_pictures(write_folder, table, picture, tmp_path):
    photos = write_folder({"x": 2})
    listed = photos.parent / "list.csv"
    listed.write_text("".join(["path\n", *(f"photos/x/00{i}.png\n" for i in (0, 1))]))
    assert reds(read_unlabelled(listed)) == [0, 1]
    table([0, 1], mask=(datasets.Image(), [picture(), picture()])).to_parquet(str(tmp_path / "two.parquet"))
    with pytest.raises(DataError, match=r"do not tell which one holds the pictures: img \(Image\), label \(ClassLabel of 2\), mask"):
        read_unlabelled(tmp_path / "two.parquet")
    assert reds(read_unlabelled(tmp_path / "two.parquet", "img")) == [0, 10]


def test_digits_and_what_is_nothing():
    assert len(read_unlabelled("digits")) == 1797
    for nothing in ("./nowhere", ""):
        with pytest.raises(DataError, match="is no folder or file here, and cannot be a Hub id"):
            read_unlabelled(nothing)
    with pytest.raises(DataError, match="no folder or file of that name here, and the Hub did not give it"):
        read_unlabelled("nobody/no-such-set")
