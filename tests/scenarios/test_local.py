"""Forms in which pictures lie on a disk, and what happens where there are two at once."""

from __future__ import annotations

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from hf_cl.scenarios import DataError, open_images


@pytest.fixture
def flat(tmp_path, picture):
    """photos/ with 0.png ... 7.png; picture i is red in the strength 10 i."""
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(8):
        picture(red=10 * i).save(root / f"{i}.png")
    return root


def labels_of(source):
    """Strength of red of each picture -> its class: what a person would read off the table."""
    found = {}
    for part in (source.train, source.test):
        for i in range(len(part)):
            found[part[i]["image"].getpixel((0, 0))[0] // 10] = source.class_names[part[i]["label"]]
    return [found[i] for i in sorted(found)]


WANTED = ["cat", "dog"] * 4


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_beside_the_photos(flat, suffix):
    rows = {"file_name": [f"{i}.png" for i in range(8)], "label": WANTED}
    table = datasets.Dataset.from_dict(rows)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[suffix](str(flat / f"metadata.{suffix}"))
    assert labels_of(open_images(flat)) == WANTED


def test_metadata_by_split(flat):
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        (flat / split).mkdir()
        for i in numbers:
            (flat / f"{i}.png").rename(flat / split / f"{i}.png")
        lines = [json.dumps({"file_name": f"{i}.png", "label": WANTED[i]}) for i in numbers]
        (flat / split / "metadata.jsonl").write_text("\n".join(lines))
    source = open_images(flat)
    assert (labels_of(source), len(source.test)) == (WANTED, 2)


def test_metadata_without_classes_leaves_them_to_the_folders(write_folder, caplog):
    root = write_folder({"cat": 3, "dog": 3})
    (root / "metadata.csv").write_text("file_name,width,height\ncat/000.png,6,4\n")
    assert open_images(root).class_names == ("cat", "dog")
    assert "metadata.csv does not tell the classes" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("list.csv", "path,label\n{rows}", None),
        ("list.csv", "id;image;species\n{numbered}", "species"),
        ("list.tsv", "image\tkind\n{rows}", None),
        ("list.csv", "\ufefffile,class\r\n{rows}", None),
    ],
)
def test_a_table_of_paths_and_labels(flat, name, text, column):
    rows = [f"{i}.png,{label}" for i, label in enumerate(WANTED)]
    if name.endswith("tsv"):
        rows = [row.replace(",", "\t") for row in rows]
    numbered = [f"{i};{row.replace(',', ';')}" for i, row in enumerate(rows)]
    text = text.replace("{rows}", "\n".join(rows)).replace("{numbered}", "\n".join(numbered))
    (flat / name).write_bytes(text.encode())
    assert labels_of(open_images(flat / name, label_column=column)) == WANTED


def test_paths_may_start_from_the_working_directory_or_a_folder_beside_the_table(flat, monkeypatch):
    (flat.parent / "list.csv").write_text("file,label\n" + "\n".join(f"{i}.png,{label}" for i, label in enumerate(WANTED)))
    assert labels_of(open_images(flat.parent / "list.csv")) == WANTED
    monkeypatch.chdir(flat.parent)
    (flat / "list.csv").write_text("file,label\n" + "\n".join(f"photos\\{i}.png,{label}" for i, label in enumerate(WANTED)))
    assert labels_of(open_images(flat / "list.csv")) == WANTED


def test_blanks_around_fields_are_no_part_of_a_class_or_file(flat):
    (flat / "list.csv").write_text("file , label\n" + "\n".join(f" {i}.png, {label} " for i, label in enumerate(["big cat", "dog"] * 4)))
    assert labels_of(open_images(flat / "list.csv")) == ["big cat", "dog"] * 4


def test_names_that_other_readers_take_for_something_else_stay_classes(flat):
    names = ["NA", "null", "007", "nan"] * 2
    (flat / "list.csv").write_text("file,label\n" + "\n".join(f"{i}.png,{name}" for i, name in enumerate(names)))
    assert labels_of(open_images(flat / "list.csv")) == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_spreadsheets(flat, encoding):
    names = ["café", "straße"] * 4
    (flat / "list.csv").write_bytes(("file,label\n" + "\n".join(f"{i}.png,{name}" for i, name in enumerate(names))).encode(encoding))
    assert labels_of(open_images(flat / "list.csv")) == names


def test_numbers_of_spreadsheets_are_classes_in_order(flat):
    (flat / "list.csv").write_text("file,label\n" + "\n".join(f"{i}.png,{label}" for i, label in enumerate(["10.0", "9.0"] * 4)))
    assert open_images(flat / "list.csv").class_names == ("9", "10")


def test_a_column_of_splits(flat):
    rows = [f"{i}.png,{label},{'Train' if i < 6 else 'test'}" for i, label in enumerate(WANTED)]
    (flat / "list.csv").write_text("file,label,split\n" + "\n".join(rows))
    source = open_images(flat / "list.csv")
    assert (labels_of(source), len(source.train), len(source.test)) == (WANTED, 6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.png,cat\n0.png,dog\n", r"several labels.*0\.png \(cat, dog\)"),
        ("file,label\n0.png,cat\n1.png\n", r"row 3: 1 fields, the header has 2"),
        ("file,label,label\n0.png,a,b\n", "column 'label' stands there twice"),
        ("file,label\n", "holds no rows"),
        ("file,label\nhttps://x.org/a.png,cat\n", "download the pictures first"),
        ("file,label\nlost.png,cat\n0.png,cat\n1.png,cat\n", r"1 unreadable image: lost\.png \(No such file"),
        ("file,a,b\n0.png,x,y\n", "do not tell label_column: file .string., a .string., b .string."),
        ("file,label\n0.png,0.5\n", "is string|with a fraction|fewer than 2"),
    ],
)
def test_tables_that_cannot_be_used_say_why(flat, text, message):
    (flat / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_images(flat / "list.csv")


def test_a_flat_folder_names_the_table_in_it(flat):
    (flat / "list.csv").write_text("file,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"--dataset .*list\.csv"):
        open_images(flat)


def test_lists_of_labels_are_several_per_picture(flat):
    (flat / "list.jsonl").write_text("\n".join(json.dumps({"file": f"{i}.png", "label": ["cat", "dog"]}) for i in range(8)))
    with pytest.raises(DataError, match="Several labels per picture are not learned"):
        open_images(flat / "list.jsonl")


def test_a_table_among_photos_is_said_and_passed_over(write_folder, caplog):
    root = write_folder({"cat": 3, "dog": 3})
    pyarrow.parquet.write_table(pyarrow.table({"feature": [1.0, 2.0]}), root / "cat" / "features.parquet")
    (root / "notes.csv").write_text("a,b\n1,2\n")
    assert open_images(root).class_names == ("cat", "dog")
    said = "table files among them are not read: cat/features.parquet, notes.csv. Where one says what the photos are, name it: --dataset"
    assert said in caplog.text


def test_a_picture_beside_tables_is_said_and_passed_over(write_parquet, picture, caplog):
    root = write_parquet({"train-0": [0, 1], "test-0": [1, 0]})
    (root / "assets").mkdir()
    picture().save(root / "assets" / "banner.png")
    assert len(open_images(root).train) == 2
    assert "photos beside them are not read: assets/banner.png" in caplog.text


def test_photos_in_folders_and_tables_with_pictures_are_asked_about(write_parquet, write_folder):
    root = write_parquet({"train-0": [0, 1], "test-0": [1, 0]})
    write_folder({"cat": 2, "dog": 2}, name=root.name)
    with pytest.raises(DataError, match="Give the one you mean"):
        open_images(root)


def test_files_of_one_split_may_list_their_classes_in_another_order(tmp_path, table):
    root = tmp_path / "tables"
    root.mkdir()
    table([0, 1, 1]).to_parquet(str(root / "train-0.parquet"))
    table([0, 1], names=("bee", "ant")).to_parquet(str(root / "train-1.parquet"))
    table([0, 1], names=("bee", "ant")).to_parquet(str(root / "test-0.parquet"))
    source = open_images(root)
    assert (source.class_names, source.train.labels.tolist(), source.test.labels.tolist()) == (("ant", "bee"), [0, 1, 1, 1, 0], [1, 0])
    assert [source.train[i]["image"].getpixel((0, 0))[0] for i in range(5)] == [0, 10, 20, 0, 10]


@pytest.mark.parametrize("train", ["words", "numbers"])
def test_label_types_that_differ_between_splits(tmp_path, table, train):
    kind, values = {"words": ("string", ["ant", "bee"]), "numbers": ("int64", [0, 1])}[train]
    one = table([0, 1]).cast_column("label", datasets.Value("int64")) if train == "numbers" else table([0, 1]).remove_columns("label")
    one = one if train == "numbers" else one.add_column("label", values)
    assert one.features["label"].dtype == kind
    datasets.DatasetDict({"train": one, "test": table([1, 0])}).save_to_disk(str(tmp_path / "saved"))
    source = open_images(tmp_path / "saved", label_column="label")
    assert (source.class_names, source.train.labels.tolist(), source.test.labels.tolist()) == (("ant", "bee"), [0, 1], [1, 0])
