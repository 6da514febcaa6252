from __future__ import annotations

import sys
from types import ModuleType

import datasets
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset

from hf_cl.scenarios import DataError, class_incremental, open_images


class Items(torch.utils.data.Dataset):
    """Ten pictures of two classes, as torchvision's sets give them."""

    classes = ("ant", "bee")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return Image.new("RGB", (6, 4), (10 * index, 0, 0)), index % 2


def test_tables_of_datasets(table):
    assert open_images(table([0, 1, 0, 1])).class_names == ("ant", "bee")
    source = open_images(datasets.DatasetDict({"train": table([0, 1]), "test": table([1, 0])}), name="bugs")
    assert (source.name, source.test.labels.tolist()) == ("bugs", [1, 0])


@pytest.mark.parametrize("labels", [["a", "b"] * 4, [0.0, 1.0] * 4, [True, False] * 4])
def test_a_data_frame(write_folder, labels):
    root = write_folder({".": 8})
    frame = pandas.DataFrame({"path": [str(root / f"{i:03d}.png") for i in range(8)], "label": labels})
    source = open_images(frame, name="frame")
    assert source.unsplit is not None
    assert [source.class_names[label] for label in source.unsplit.labels] == [
        str(int(x)) if isinstance(x, float) else str(x) for x in labels
    ]


def test_a_polars_frame_is_read_by_its_columns(write_folder, monkeypatch):
    root = write_folder({".": 4})

    class DataFrame:
        def __init__(self, columns):
            self.columns = columns

        def __len__(self):
            return 4

        def __getitem__(self, key):
            raise AssertionError("columns are asked for at once")

        def to_dict(self, as_series):
            assert not as_series
            return self.columns

    DataFrame.__module__ = "polars.dataframe.frame"
    monkeypatch.setitem(sys.modules, "polars", ModuleType("polars"))
    frame = DataFrame({"path": [str(root / f"{i:03d}.png") for i in range(4)], "label": ["a", "b", "a", "b"]})
    assert open_images(frame).class_names == ("a", "b")


def test_map_style_data_sets_of_torch():
    source = open_images(Items(), name="items")
    assert (source.class_names, len(source.train), len(source.test)) == (("ant", "bee"), 8, 2)
    both = open_images({"train": Subset(Items(), range(6)), "test": Subset(Items(), range(6, 10))}, name="items")
    assert (both.train.labels.tolist(), both.test[1]["image"].getpixel((0, 0))) == ([0, 1, 0, 1, 0, 1], (70, 0, 0))
    assert [s.new_class_names for s in class_incremental(both, 1, 1, "natural")] == [("ant",), ("bee",)]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class Tensors(Items):
    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), index % 2


class Unnamed(Items):
    classes = None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "An iterable is collected first"),
        (iter([]), "is no data set that open_images reads"),
        (b"bytes", "is no data set"),
        (Tensors(), "leave transform out"),
        (Unnamed(), "has no `classes`"),
        (pandas.Series([1]), "no DataFrame"),
        (pandas.DataFrame({"path": [], "label": []}), "is empty"),
        ({"train": Items(), "test": pandas.DataFrame({"path": ["a.png"], "label": [1]})}, "give one kind"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(data, message):
    with pytest.raises(DataError, match=message):
        open_images(data)


def test_streaming_data_sets_are_refused_with_what_to_do(table):
    with pytest.raises(DataError, match="streaming=False"):
        open_images(table([0, 1]).to_iterable_dataset())
