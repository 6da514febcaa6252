from __future__ import annotations

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from hf_cl.scenarios import DataError, open_images
from hf_cl.scenarios.hub import HubAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("uoft-cs/cifar100", HubAddress("uoft-cs/cifar100", None, None)),
        ("mnist", HubAddress("mnist", None, None)),
        ("a/b:real@3f2a", HubAddress("a/b", "real", "3f2a")),
        ("a/b@refs/convert/parquet", HubAddress("a/b", None, "refs/convert/parquet")),
        ("./photos", None),
        ("/data/photos", None),
        ("a/b/c", None),
        ("my photos", None),
    ],
)
def test_addresses(text, address):
    assert HubAddress.parse(text) == address


def test_a_hub_data_set_is_opened_with_config_and_revision(monkeypatch, table):
    asked = []

    def load_dataset(path, name=None, revision=None):
        asked.append((path, name, revision))
        return datasets.DatasetDict({"train": table([0, 1, 1]), "valid": table([1, 0])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_images("owner/Tiny-Bugs:clean@main", test_split="valid")
    assert asked == [("owner/Tiny-Bugs", "clean", "main")]
    assert (source.name, source.short_name, source.test_split) == ("owner/Tiny-Bugs:clean@main", "tiny_bugs", "valid")
    assert source.test.labels.tolist() == [1, 0]
    assert source.validation is None


def test_offline_is_two_lines_that_say_what_was_asked_and_what_to_do():
    with pytest.raises(DataError) as error:
        open_images("nobody/no-such-set:b@v1")
    first, second = str(error.value).splitlines()
    assert "'nobody/no-such-set', config 'b', revision 'v1'" in first
    assert "no folder or file of that name here" in first
    assert "HF_HUB_OFFLINE" in second
    assert "HF_TOKEN" in second


@pytest.mark.parametrize(
    "failure", [DatasetNotFoundError("it is gated"), ConnectionError("no route"), ValueError("Config name is missing")]
)
def test_every_failure_of_the_hub_is_a_data_error(monkeypatch, failure):
    def load_dataset(*_, **__):
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=str(failure)):
        open_images("owner/name")


def test_a_local_folder_goes_before_a_hub_id(write_folder, monkeypatch):
    root = write_folder({"a": 2, "b": 2})
    monkeypatch.chdir(root.parent)
    assert open_images("photos").class_names == ("a", "b")


@pytest.mark.parametrize("dataset", ["./no/such/folder", "/no/such/folder", "my photos", "a/b/c"])
def test_a_path_that_is_neither_here_nor_a_hub_id(dataset):
    with pytest.raises(DataError, match="is no folder or file here, and cannot be a Hub id"):
        open_images(dataset)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(DataError, match="dataset is empty"):
        open_images("")
