"""Tiny data sets in every form that `open_images` reads, and sources that are never decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_cl.scenarios import ImageSet, ImageSource
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.sources import own_split


@pytest.fixture(autouse=True)
def no_network_and_own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A 6x4 picture of one colour."""
    return lambda red=0, mode="RGB": Image.new("RGB", (6, 4), (red, 10, 20)).convert(mode)


@pytest.fixture
def write_folder(tmp_path, picture) -> Callable[..., Path]:
    """`write_folder({"train/cat": 3})`: three PNGs in photos/train/cat."""

    def write(counts: Mapping[str, int], name: str = "photos") -> Path:
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(red=i).save(tmp_path / name / folder / f"{i:03d}.png")
        return tmp_path / name

    return write


@pytest.fixture
def table(picture) -> Callable[..., datasets.Dataset]:
    """A table with an Image and a ClassLabel column; image i is red in the strength 10 i."""

    def make(labels: Sequence[int | None], names: Sequence[str] = ("ant", "bee"), **more_columns) -> datasets.Dataset:
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        features |= {column: feature for column, (feature, _) in more_columns.items()}
        values = {column: values for column, (_, values) in more_columns.items()}
        images = [picture(red=10 * i) for i in range(len(labels))]
        return datasets.Dataset.from_dict({"img": images, "label": list(labels), **values}, features=datasets.Features(features))

    return make


@pytest.fixture
def write_parquet(tmp_path, table) -> Callable[..., Path]:
    """`write_parquet({"train-0": [0, 1], "test-0": [0, 1]})`: a folder of such tables."""

    def write(files: Mapping[str, Sequence[int | None]], **columns) -> Path:
        folder = tmp_path / "tables"
        for name, labels in files.items():
            file = folder / f"{name}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            table(labels, **columns).to_parquet(str(file))
        return folder

    return write


def image_set(counts: Sequence[int], split: str = "train") -> ImageSet:
    """Undecodable images `<split>/c<label>/<split>_<row>.jpg`; classes interleaved, so that rows of a class are not consecutive."""
    labels = np.concatenate([np.full(count, label) for label, count in enumerate(counts)])
    labels = np.random.default_rng(7).permutation(labels)
    return ImageSet(FileStore(Path("nowhere"), [f"{split}/c{label}/{split}_{row}.jpg" for row, label in enumerate(labels)]), labels)


@pytest.fixture
def make_source() -> Callable[..., ImageSource]:
    """`make_source(train counts per class, test counts)`; without test counts, a source with a split of its own drawing."""

    def make(
        train: Sequence[int], test: Sequence[int] | None = None, name: str = "birds", validation: Sequence[int] | None = None
    ) -> ImageSource:
        names = tuple(f"class {label:03d}" for label in range(len(train)))
        if test is None:
            return own_split(name, names, image_set(train, "all"), seed=0)
        held = None if validation is None else image_set(validation, "validation")
        return ImageSource(name, names, image_set(train), image_set(test, "test"), "test", held)

    return make
