"""Which columns of a Hugging Face data set hold the images and their classes."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError
from hf_cl.hints import nearest
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import ColumnStore
from hf_cl.scenarios.splits import Splits


def read_columns(name: str, tables: Mapping[str, datasets.Dataset], image_column: str | None, label_column: str | None) -> Splits:
    """The splits of a Hugging Face data set, its images undecoded.

    Without column names there must be exactly one Image and one ClassLabel column. A column that is named may also hold images as bytes or
    paths, and labels as integers or strings; their classes are the values that occur, sorted.

    Raises DataError, listing the columns, where a column cannot be told or is not of such a type.
    """
    features = next(iter(tables.values())).features
    image_column, label_column = find_columns(name, features, image_column, label_column)
    for split, table in tables.items():
        if missing := {image_column, label_column} - set(table.features):
            raise DataError(f"{name!r}: split {split!r} has no column {sorted(missing)}; it has {_listing(table.features)}.")
    class_names, labels = _read_labels(name, tables, label_column)
    images = {split: ImageSet(ColumnStore(table, image_column, split), labels[split]) for split, table in tables.items()}
    return Splits(images, class_names)


def find_columns(name: str, features: datasets.Features, image_column: str | None, label_column: str | None) -> tuple[str, str]:
    """(image column, label column), found by feature type unless named. Raises DataError."""
    image = _find(name, features, image_column, "image_column", datasets.Image)
    label = _find(name, features, label_column, "label_column", datasets.ClassLabel)
    unclear = [option for option, column in (("image_column", image), ("label_column", label)) if column is None]
    if image is None or label is None:
        raise DataError(
            f"{name!r}: its columns do not tell {' and '.join(unclear)}: {_listing(features)}.\n"
            f"Name the column with {' and '.join(f'--{option}' for option in unclear)}."
        )
    return image, label


def _find(name: str, features: datasets.Features, column: str | None, option: str, kind: type) -> str | None:
    if column is None:
        found = [key for key, feature in features.items() if isinstance(feature, kind)]
        return found[0] if len(found) == 1 else None
    if column not in features:
        raise DataError(f"{name!r} has no column {column!r} ({option}); it has {_listing(features)}.{nearest(column, features)}")
    feature = features[column]
    usable = _holds_images(feature) if kind is datasets.Image else _holds_labels(feature)
    if not usable:
        raise DataError(f"{name!r}: column {column!r} ({option}) is {_type_name(feature)}; {_listing(features)}.")
    return column


def _holds_images(feature: object) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "string"))


def _holds_labels(feature: object) -> bool:
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value) and ("int" in feature.dtype or feature.dtype in ("string", "large_string"))
    )


def _read_labels(name: str, tables: Mapping[str, datasets.Dataset], column: str) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    values = {split: table.select_columns([column]).with_format("arrow")[:][column].to_pylist() for split, table in tables.items()}
    feature = next(iter(tables.values())).features[column]
    if isinstance(feature, datasets.ClassLabel):
        for split, table in tables.items():
            if table.features[column] != feature:
                raise DataError(
                    f"{name!r}: the classes of column {column!r} in split {split!r} differ from those of {next(iter(tables))!r}."
                )
        class_names = tuple(feature.names)
        labels = {split: [NO_LABEL if value is None else value for value in column_values] for split, column_values in values.items()}
    else:
        found = sorted({value for column_values in values.values() for value in column_values if value is not None})
        class_names = tuple(str(value) for value in found)
        label_of = {value: label for label, value in enumerate(found)}
        labels = {split: [label_of.get(value, NO_LABEL) for value in column_values] for split, column_values in values.items()}
    return class_names, {split: np.asarray(column_labels, dtype=np.int64) for split, column_labels in labels.items()}


def _listing(features: Mapping[str, object]) -> str:
    return ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())


def _type_name(feature: object) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"ClassLabel of {len(feature.names)}"
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__
