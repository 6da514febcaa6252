"""Trees of folders and tables drawn at random: what is read is what a person would read off them, or one sentence says what is wrong."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_cl.scenarios import DataError, open_images

PLAIN = ("cat", "dog", "hen", "Ünder", "猫", "a b", "n02-17", "7", "007", "NA", "null", "True")
TRAPS = ("train", "Test", "test tube", "val", "my_train", "dev", "training day")
"""Names of classes that look like splits: may be asked about, must not be misread."""
SPELLINGS = (
    *(("train", "test"), ("Train", "Test"), ("training", "testing")),
    *(("train_set", "test-set"), ("my_train", "my_test"), ("TRAIN", "eval")),
)
LAYOUTS = ("classes", "splits above", "splits below", "metadata", "list")
JUNK = ("@eaDir", ".cache", "__MACOSX", "#recycle")


@dataclass(frozen=True)
class Tree:
    classes: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    layout: str
    spelling: tuple[str, str]
    around: int
    depth: int
    junk: tuple[str, ...]
    stray: tuple[str, ...]
    encoding: str
    form: str

    @property
    def split(self) -> bool:
        return self.layout in ("splits above", "splits below")

    @property
    def plain(self) -> bool:
        """Whether nothing about it can be misunderstood."""
        return set(self.classes) <= set(PLAIN) and len(self.classes) > 1


@st.composite
def trees(draw):
    names = draw(st.lists(st.sampled_from(draw(st.sampled_from([PLAIN, PLAIN, PLAIN + TRAPS]))), min_size=1, max_size=4, unique=True))
    return Tree(
        classes=tuple(names),
        train=tuple(draw(st.integers(2, 3)) for _ in names),
        test=tuple(draw(st.integers(1, 2)) for _ in names),
        layout=draw(st.sampled_from(LAYOUTS)),
        spelling=draw(st.sampled_from(SPELLINGS)),
        around=draw(st.integers(0, 2)),
        depth=draw(st.integers(0, 1)),
        junk=tuple(draw(st.lists(st.sampled_from(JUNK), max_size=2, unique=True))),
        stray=tuple(draw(st.lists(st.sampled_from(("notes.txt", "features.parquet", "logo.svg", "raw")), max_size=2, unique=True))),
        encoding=draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        form=draw(st.sampled_from(["csv", "tsv", "jsonl"])),
    )


def picture() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 10, 10)).save(written, format="PNG")
    return written.getvalue()


PICTURE = picture()


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURE)


def write(tree: Tree, top: Path) -> Path:
    """Write the tree; the path that a user would give."""
    root = top.joinpath(*["unpacked", "inner"][: tree.around])
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, train, test in zip(tree.classes, tree.train, tree.test, strict=True):
        for split, count in zip(tree.spelling, (train, test), strict=True):
            for number in range(count):
                parts = {"classes": [name], "splits above": [split, name], "splits below": [name, split]}.get(tree.layout, [])
                file = f"{split}{number}.png" if parts else f"{len(rows)}.png"
                deep = ["left"] if tree.depth and number and tree.layout in ("classes", "splits above") else []
                put(root.joinpath(*parts, *deep, file))
                rows.append((file, name))
    for junk in tree.junk:
        put(root / junk / "0.png")
        put(root / tree.classes[0] / junk / "0.png") if tree.layout == "classes" else None
    for stray in tree.stray:
        if stray == "features.parquet":
            pyarrow.parquet.write_table(pyarrow.table({"feature": [1.0]}), root / stray)
        else:
            (root / stray).write_text("<svg/>" if stray == "logo.svg" else "words")
    return table(tree, root, rows) if not tree.split and tree.layout != "classes" else top


def table(tree: Tree, root: Path, rows: list[tuple[str, str]]) -> Path:
    column, file = ("file_name", root / f"metadata.{tree.form}") if tree.layout == "metadata" else ("path", root / f"things.{tree.form}")
    if tree.form == "jsonl":
        text = "\n".join(json.dumps({column: name, "label": label}, ensure_ascii=False) for name, label in rows)
    else:
        mark = {"csv": ",", "tsv": "\t"}[tree.form]
        text = "\n".join(mark.join(row) for row in [(column, "label"), *rows])
    file.write_bytes(text.encode(tree.encoding))
    return root if tree.layout == "metadata" else file


def counts(images, class_names) -> Counter:
    return Counter(class_names[label] for label in images.labels)


def held(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = write(tree, Path(folder))
        try:
            source = open_images(place)
        except DataError as error:
            assert not tree.plain, f"refused: {error}"
            assert str(error).strip()
            return
        every = dict(zip(tree.classes, map(sum, zip(tree.train, tree.test, strict=True)), strict=True))
        assert set(source.class_names) == set(tree.classes)
        assert counts(source.train, source.class_names) + counts(source.test, source.class_names) == Counter(every)
        if tree.split:
            assert counts(source.test, source.class_names) == Counter(dict(zip(tree.classes, tree.test, strict=True)))


SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=100, **SETTINGS)
@given(tree=trees())
def test_a_tree_is_read_as_a_person_would(tree):
    held(tree)


@pytest.mark.slow
@settings(max_examples=2000, **SETTINGS)
@given(tree=trees())
def test_two_thousand_trees(tree):
    held(tree)
