"""Labels, lists and orders of classes as people mistype them: sessions, or one sentence with file, line and row."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hostile_cases import cases, check_message, names
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_cl.errors import DataError
from hf_cl.scenarios import ImageSet, ImageSource
from hf_cl.scenarios.class_order import resolve_class_order
from hf_cl.scenarios.columns import read_columns
from hf_cl.scenarios.image_store import ArrayStore, FileStore
from hf_cl.scenarios.session_lists import read_session_lists
from hf_cl.scenarios.shot_lists import read_shot_list
from hf_cl.scenarios.sources import own_split
from hf_cl.scenarios.split_lists import split_by_lists
from hf_cl.scenarios.splits import Splits
from hf_cl.scenarios.validation import validate

CLASSES = ("ant", "bee", "crab")
FILES = [f"{name}/{i}.jpg" for name in CLASSES for i in range(4)]


def images(labels) -> ImageSet:
    return ImageSet(ArrayStore(np.zeros((len(labels), 2, 2), dtype=np.uint8)), labels)


@cases
@given(labels=st.lists(st.integers(-3, 5) | st.sampled_from([2**62, -(2**62)]), min_size=1, max_size=12), skip=st.booleans())
def test_any_numbers_as_labels(labels, skip):
    splits = Splits({"train": images(labels), "test": images([0, 1, 2])}, CLASSES)
    try:
        usable = validate("data", splits, skip_bad_images=skip)
    except DataError as error:
        assert str(error).count("\n") < 5 and len(str(error)) < 2500
        assert not skip or not any(0 <= label < 3 for label in labels)
    else:
        for each in usable.images.values():
            assert set(each.labels.tolist()) <= set(range(len(usable.class_names)))
        assert set(usable.images["train"].labels.tolist()) == set(range(len(usable.class_names)))


COLUMNS = {
    "integers": st.integers(-(2**31), 2**31) | st.none(),
    "text": names.map(lambda text: text[:50]) | st.none(),
    "floats": st.floats(allow_nan=True) | st.none(),
    "booleans": st.booleans() | st.none(),
    "lists": st.lists(st.integers(0, 3), max_size=2),
}


@cases
@given(data=st.data(), kind=st.sampled_from(sorted(COLUMNS)))
def test_any_column_as_labels(data, kind):
    found = data.draw(st.lists(COLUMNS[kind], min_size=2, max_size=6))
    table = datasets.Dataset.from_dict({"img": [Image.new("RGB", (2, 2))] * len(found), "label": found})
    try:
        splits = read_columns("data", {"train": table}, None, "label")
        usable = validate("data", splits, skip_bad_images=True)
    except DataError as error:
        assert str(error).count("\n") < 5
    else:
        assert len(usable.class_names) == len(set(usable.class_names)) >= 1


def source(unsplit: bool = False) -> ImageSource:
    labels = np.repeat(np.arange(3), 4)
    train = ImageSet(FileStore("nowhere", FILES), labels)  # pyright: ignore
    return own_split("birds", CLASSES, train, seed=0) if unsplit else ImageSource("birds", CLASSES, train, images([0, 1, 2]), "test")


def encodable(text: str) -> bool:
    return "\0" not in text


entries = st.one_of(
    st.integers(-2, 13).map(str),
    st.sampled_from(
        [*FILES, "ant/9.jpg", "../ant/0.jpg", "/abs/ant/0.jpg", "ant\\0.jpg", "0.jpg", "ant", "٣", "1_0", "1e3", "0x1", "9" * 5000]
    ),
    names,
)


def write(file, lines: list[str], damage: bytes) -> None:
    file.write_bytes("\n".join(lines).encode() + damage)


damages = st.sampled_from([b"", b"\n\n", b"\xff\xfe", b"\r\n0\r\n", b"\x00"])


@cases
@given(lists=st.lists(st.lists(entries, max_size=5), min_size=1, max_size=3), damage=damages)
def test_any_session_lists(tmp_path_factory, lists, damage):
    folder = tmp_path_factory.mktemp("lists")
    for k, lines in enumerate(lists, start=1):
        write(folder / f"session_{k}.txt", lines, damage)
    try:
        read = read_session_lists(source(), folder, [1, 1, 1], 2)
    except DataError as error:
        check_message(error, folder)
    else:
        assert sorted(read.order.tolist()) == [0, 1, 2]


@cases
@given(train=st.lists(entries, max_size=6), test=st.lists(entries, max_size=6), damage=damages)
def test_any_lists_of_a_split(tmp_path_factory, train, test, damage):
    folder = tmp_path_factory.mktemp("lists")
    write(folder / "train.txt", train, damage)
    write(folder / "test.txt", test, b"")
    try:
        split, _ = split_by_lists(source(unsplit=True), folder)
    except DataError as error:
        check_message(error, folder)
    else:
        assert not set(split.train.indices) & set(split.test.indices)


@cases
@given(
    lines=st.lists(st.tuples(st.sampled_from([*CLASSES, "0", "3", "-1", "²"]) | names, entries).map(" ".join), max_size=6), damage=damages
)
def test_any_list_of_shots(tmp_path_factory, lines, damage):
    folder = tmp_path_factory.mktemp("lists")
    write(folder / "birds.txt", lines, damage)
    try:
        chosen, _ = read_shot_list(source(), folder, 1)
    except DataError as error:
        check_message(error, folder)
    else:
        assert chosen.labels.tolist() == [0, 1, 2]


@cases
@given(lines=st.lists(st.sampled_from(CLASSES) | names, max_size=5), damage=damages)
def test_any_order_of_classes(tmp_path_factory, lines, damage):
    file = tmp_path_factory.getbasetemp() / "order.txt"
    write(file, lines, damage)
    try:
        order = resolve_class_order(CLASSES, file)
    except DataError as error:
        check_message(error, file)
    else:
        assert sorted(order.tolist()) == [0, 1, 2]


def test_an_order_of_any_name_is_no_order():
    for name in ("\0", "x" * 10_000, "../..", "seeed", ""):
        with pytest.raises(ValueError) as caught:
            resolve_class_order(CLASSES, name)
        check_message(caught.value)
