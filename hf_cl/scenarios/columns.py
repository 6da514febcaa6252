"""Which columns of a table hold the images and their classes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from hf_cl.errors import DataError, first_ten
from hf_cl.hints import nearest
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import ColumnStore, FileStore
from hf_cl.scenarios.labels import LabelColumn, read_labels
from hf_cl.scenarios.picture_files import suffixes
from hf_cl.scenarios.splits import UNSPLIT, Splits, split_kind
from hf_cl.scenarios.tables import Table, Tables

LABEL_NAMES = ("label", "labels", "class", "class_name", "classname", "category", "target")
"""What a column of labels is called where its type does not say it."""
SPLIT_NAMES = ("split", "subset", "partition")


def read_columns(
    name: str,
    tables: Mapping[str, datasets.Dataset] | Tables,
    image_column: str | None,
    label_column: str | None,
    domain_column: str | None = None,
) -> Splits:
    """The splits of tables, their images undecoded.

    Without column names there must be exactly one Image column, or one of paths of pictures, and exactly one ClassLabel column, or one
    called like labels (`LABEL_NAMES`), or one more column than that of paths. A column that is named may hold images as bytes or paths.
    Labels are those of `read_labels`. A lone table of paths may have a column `split`. `domain_column` names one that says of which domain
    each picture is; domains count in order of first appearance, those of training images first.

    Raises DataError, listing the columns, where a column cannot be told or is not of such a type; for a picture listed under two classes.
    """
    parts: dict[str, list[Table]] = {
        split: [Table(found)] if isinstance(found, datasets.Dataset) else list(found) for split, found in tables.items()
    }
    first = next(iter(parts.values()))[0].rows
    if domain_column is not None:
        _named(name, first.features, domain_column, "domain_column", _holds_labels)
        first = first.remove_columns([domain_column])  # it is neither image nor label, whatever it is called
    image_column, label_column = find_columns(name, first, image_column, label_column)
    needed = {image_column, label_column, *([] if domain_column is None else [domain_column])}
    for split, found in parts.items():
        for table in found:
            if missing := needed - set(table.rows.features):
                raise DataError(f"{name!r}: split {split!r} has no column {sorted(missing)}; it has {_listing(table.rows.features)}.")
    parts = _by_split_column(parts, image_column, label_column)
    columns = [_label_column(split, table.rows, label_column) for split, found in parts.items() for table in found]
    class_names, labels = read_labels(name, label_column, columns)
    images, position = {}, 0
    for split, found in parts.items():
        mine = [label for part in labels[position : position + len(found)] for label in part.tolist()]
        position += len(found)
        images[split] = ImageSet(_store(name, split, found, image_column, mine, class_names), mine)
    if domain_column is None:
        return Splits(images, class_names)
    said = {split: _domains(name, split, found, domain_column) for split, found in parts.items()}
    order = sorted(said, key=lambda split: split_kind(split) != "train")
    numbers = {domain: number for number, domain in enumerate(dict.fromkeys(value for split in order for value in said[split]))}
    images = {split: ImageSet(found.store, found.labels, None, [numbers[v] for v in said[split]]) for split, found in images.items()}
    return Splits(images, class_names, tuple(numbers))


def _domains(name: str, split: str, tables: Sequence[Table], column: str) -> list[str]:
    """What the column says of each row. Raises DataError for rows of which it says nothing."""
    said: list[str] = []
    for table in tables:
        feature, values = table.rows.features[column], table.rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        said += ["" if value is None else str(value) if names is None else names[value] for value in values]
    if empty := [row for row, value in enumerate(said) if not value.strip()]:
        raise DataError(f"{name!r}: {len(empty)} rows of split {split!r} have no domain in column {column!r}, the first is row {empty[0]}.")
    return said


def find_columns(name: str, table: datasets.Dataset, image_column: str | None, label_column: str | None) -> tuple[str, str]:
    """(image column, label column), found by type, contents and name unless named. Raises DataError."""
    features = table.features
    image = _named(name, features, image_column, "image_column", _holds_images) or _image_column(table)
    label = _named(name, features, label_column, "label_column", _holds_labels) or _only(features, datasets.ClassLabel)
    if label is None and image is not None and not _of_type(features, datasets.ClassLabel):
        label = _named(name, features, _called_label(features, image), "label_column", _holds_labels)
    unclear = [option for option, column in (("image_column", image), ("label_column", label)) if column is None]
    if image is None or label is None:
        raise DataError(
            f"{name!r}: its columns do not tell {' and '.join(unclear)}: {_listing(features)}.\n"
            f"Name the column with {' and '.join(f'--{option}' for option in unclear)}."
        )
    return image, label


def _image_column(table: datasets.Dataset) -> str | None:
    """The one column of images, or of their paths where there are none; None where that cannot be told."""
    if not _of_type(table.features, datasets.Image):
        return _paths_column(table)
    return _only(table.features, datasets.Image)


def read_images(name: str, tables: Tables, image_column: str | None = None) -> ImageSet:
    """The pictures of all tables, undecoded and without labels, whatever other columns there are.

    `image_column`: taken where the tables do not tell it themselves. Raises DataError, listing the columns, where nothing tells it.
    """
    parts = [table for found in tables.values() for table in found]
    first = parts[0].rows
    column = _image_column(first) or (image_column if image_column in first.features else None)
    if column is None or any(column not in table.rows.features for table in parts):
        raise DataError(f"{name!r}: its columns do not tell which one holds the pictures: {_listing(first.features)}.")
    nothing = [NO_LABEL] * sum(len(table.rows) for table in parts)
    return ImageSet(_store(name, " and ".join(tables), parts, column, nothing, ()), nothing)


def _named(name: str, features: datasets.Features, column: str | None, option: str, usable: Any) -> str | None:
    if column is None:
        return None
    if column not in features:
        raise DataError(f"{name!r} has no column {column!r} ({option}); it has {_listing(features)}.{nearest(column, features)}")
    if not usable(features[column]):
        several = " Several labels per picture are not learned; one class per picture is." if _is_list(features[column]) else ""
        raise DataError(f"{name!r}: column {column!r} ({option}) is {_type_name(features[column])}; {_listing(features)}.{several}")
    return column


def _only(features: datasets.Features, kind: type) -> str | None:
    found = _of_type(features, kind)
    return found[0] if len(found) == 1 else None


def _of_type(features: datasets.Features, kind: type) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, kind)]


def _paths_column(table: datasets.Dataset) -> str | None:
    """The one column of words that all end like a picture's file."""
    sample = table.select(range(min(100, len(table))))
    words = [key for key, feature in table.features.items() if isinstance(feature, datasets.Value) and "string" in feature.dtype]
    found = [key for key in words if _are_paths([value for value in sample[key] if value is not None])]
    return found[0] if len(found) == 1 else None


def _are_paths(values: Sequence[str]) -> bool:
    return bool(values) and all(value.lower().endswith(suffixes()) for value in values)


def _called_label(features: datasets.Features, image: str) -> str | None:
    """Among columns without a type that says it: the one called like labels, or the only one there is beside paths."""
    others = [key for key in features if key != image and key.casefold() not in SPLIT_NAMES]
    called = [key for key in others if key.casefold() in LABEL_NAMES]
    found = called or (others if isinstance(features[image], datasets.Value) else [])
    return found[0] if len(found) == 1 else None


def _holds_images(feature: object) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("binary", "string", "large_string")
    )


def holds_pictures(features: datasets.Features) -> bool:
    """Whether a column holds pictures themselves, and not paths of them."""
    return any(_holds_images(feature) and getattr(feature, "dtype", "") not in ("string", "large_string") for feature in features.values())


def _holds_labels(feature: object) -> bool:
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value)
        and ("int" in feature.dtype or "float" in feature.dtype or feature.dtype in ("string", "large_string", "bool", "null"))
    )


def _is_list(feature: object) -> bool:
    return isinstance(feature, (list, datasets.List, datasets.LargeList))


def _label_column(split: str, table: datasets.Dataset, column: str) -> LabelColumn:
    feature = table.features[column]
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return LabelColumn(f"split {split!r}", values, names)


def _by_split_column(parts: dict[str, list[Table]], image: str, label: str) -> dict[str, list[Table]]:
    """A lone table parted by its column `split`, where every row says train, test or validation."""
    tables = parts.get(UNSPLIT, [])
    if len(parts) > 1 or len(tables) != 1:
        return parts
    rows = tables[0].rows
    columns = [key for key in rows.features if key.casefold() in SPLIT_NAMES and key not in (image, label)]
    kinds = [split_kind(str(value)) for value in rows[columns[0]]] if len(columns) == 1 else [None]
    if None in kinds:
        return parts
    return {
        str(kind): [Table(rows.select([i for i, found in enumerate(kinds) if found == kind]), tables[0].folder)]
        for kind in dict.fromkeys(kinds)
    }


def _store(
    name: str, split: str, tables: Sequence[Table], column: str, labels: Sequence[int], class_names: Sequence[str]
) -> ColumnStore | FileStore:
    are_paths = ["string" in getattr(table.rows.features[column], "dtype", "") for table in tables]
    if not all(are_paths) or any(table.folder is None for table in tables):
        columns = [table.rows.select_columns([column]).cast_column(column, datasets.Image(decode=False)) for table in tables]
        return ColumnStore(datasets.concatenate_datasets(columns) if len(columns) > 1 else columns[0], column, split)
    folders = [_start(table, column) for table in tables]
    root = Path(os.path.commonpath(folders))
    names = [_below(root, folder, value) for table, folder in zip(tables, folders, strict=True) for value in table.rows[column]]
    _check_once(name, names, labels, class_names)
    return FileStore(root, names)


def _start(table: Table, column: str) -> Path:
    """The folder that a table's paths start from: its own, the working directory, or one beside it, wherever the first picture lies."""
    folder = (table.folder or Path()).resolve()
    first = next((value for value in table.rows[column] if value), "").replace("\\", "/")
    places = [folder, Path.cwd(), *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    return next((place for place in places if (place / first).is_file()), folder)


def _below(root: Path, folder: Path, value: str | None) -> str:
    if not value:
        return "(a row without a path)"
    if "://" in value:
        raise DataError(f"{value} is an address of the web; download the pictures first, and list the files.")
    path = folder / value.replace("\\", "/")
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _check_once(name: str, names: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> None:
    """Raise DataError for a picture that is listed with two classes."""
    of_file: dict[str, set[int]] = defaultdict(set)
    for file, label in zip(names, labels, strict=True):
        of_file[file].add(label)
    several = {file: found for file, found in of_file.items() if len(found) > 1}
    if several:
        named = {file: [class_names[label] for label in sorted(found) if 0 <= label < len(class_names)] for file, found in several.items()}
        listed = first_ten(f"{file} ({', '.join(found)})" for file, found in named.items())
        raise DataError(
            f"{name!r}: {len(several)} pictures are listed with several labels, and hf_cl learns one class per picture: {listed}."
        )


def _listing(features: Mapping[str, object]) -> str:
    return ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())


def _type_name(feature: object) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"ClassLabel of {len(feature.names)}"
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
