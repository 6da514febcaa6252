from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from hf_cl.scenarios import DataError, open_images
from hf_cl.scenarios.splits import UNSPLIT
from hf_cl.scenarios.tables import split_of


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/test-00000-of-00001.parquet", "test"),
        ("train_part3.parquet", "train"),
        ("training.parquet", "train"),
        ("val.parquet", "validation"),
        ("my_Test.parquet", "test"),
        ("TRAIN.parquet", "train"),
        ("testset-1.parquet", "test"),
        ("eval/part.parquet", "test"),
        ("train_test.parquet", UNSPLIT),
        ("default/validation/0000.parquet", "validation"),
        ("test/0000.parquet", "test"),
        ("v2-0000.parquet", "v2"),
        ("data-00000-of-00001.arrow", UNSPLIT),
        ("values.parquet", UNSPLIT),
    ],
)
def test_the_split_of_a_file(file, split):
    assert split_of(Path("root") / file, Path("root"), "v2") == split


def test_parquet_splits(write_parquet):
    source = open_images(write_parquet({"train-0": [0, 1], "train-1": [1], "test-0": [1, 0], "validation-0": [0]}))
    assert (source.name, source.class_names, source.test_split) == ("tables", ("ant", "bee"), "test")
    assert source.train.labels.tolist() == [0, 1, 1]
    assert source.train.indices.tolist() == [0, 1, 2]
    assert source.test[1]["image"].getpixel((0, 0)) == (10, 10, 20)
    assert source.validation is not None
    assert len(source.validation) == 1
    assert source.unsplit is None


def test_parquet_in_a_folder_with_an_odd_name(write_parquet):
    folder = write_parquet({"train-0": [0, 1], "test-0": [1, 0]})
    odd = folder.rename(folder.with_name("we[ird] *"))
    assert len(open_images(odd).train) == 2


def test_saved_datasets(tmp_path, table):
    table([0, 1, 0, 1]).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table([0, 1]), "test": table([1, 0])}).save_to_disk(str(tmp_path / "two"))
    assert open_images(tmp_path / "one").unsplit is not None
    assert open_images(tmp_path / "two").test.labels.tolist() == [1, 0]


def test_arrow_files_and_a_single_file(tmp_path, table, write_parquet):
    table([0, 1, 0, 1]).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "arrows").mkdir()
    for split in ("train", "test"):
        (tmp_path / "arrows" / f"{split}.arrow").write_bytes((tmp_path / "saved" / "data-00000-of-00001.arrow").read_bytes())
    assert open_images(tmp_path / "arrows").test.labels.tolist() == [0, 1, 0, 1]
    assert open_images(write_parquet({"whatever": [0, 0, 1, 1]}) / "whatever.parquet").name == "whatever"


def test_files_with_and_without_a_split_are_refused(write_parquet):
    with pytest.raises(DataError, match=r"tell no split: more\.parquet"):
        open_images(write_parquet({"train-0": [0, 1], "more": [0, 1]}))


def test_a_broken_parquet_file_is_an_error_of_its_folder(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="its files cannot be read"):
        open_images(tmp_path / "tables")


def test_two_kinds_of_files_are_refused(write_parquet):
    folder = write_parquet({"train-0": [0, 1]})
    (folder / "test.arrow").write_bytes(b"")
    with pytest.raises(DataError, match="arrow and parquet"):
        open_images(folder)
