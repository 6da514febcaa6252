"""Data that a program has already: tables of `datasets`, pandas or polars, and map-style data sets of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import datasets
import numpy as np
from PIL import Image

from hf_cl.errors import DataError
from hf_cl.pictures import to_rgb
from hf_cl.scenarios.columns import read_columns
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.splits import UNSPLIT, Splits
from hf_cl.scenarios.tables import Table, Tables


@runtime_checkable
class Items(Protocol):
    """What can be counted and asked for one by one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class ItemStore:
    """The pictures of a map-style data set of (PIL image, int)."""

    file_names = None
    place = "items in memory"

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def open(self, row: int) -> Image.Image:
        return self._items[row][0]

    def decode(self, row: int) -> Image.Image:
        return to_rgb(self.open(row))

    def stamps(self, rows: Sequence[int]) -> None:
        """An item may be another at every call."""
        return

    def content(self, row: int) -> bytes:
        return self.decode(row).tobytes()

    def describe(self, row: int) -> str:
        return f"item {row}"


def read_object(name: str, data: Any, image_column: str | None, label_column: str | None, domain_column: str | None = None) -> Splits:
    """The splits of an object; a mapping of such objects is one of splits.

    Raises DataError for iterables and streams, which have no length and can be read once, with what to do; for a torch data set whose items
    are no PIL images or that does not name its classes.
    """
    parts: Mapping[str, Any] = data if isinstance(data, Mapping) else {UNSPLIT: data}
    for part in parts.values():
        _refuse_streams(part)
    tables = {str(split): _table(part) for split, part in parts.items()}
    if all(table is not None for table in tables.values()):
        found: Tables = {split: [table] for split, table in tables.items() if table is not None}
        return read_columns(name, found, image_column, label_column, domain_column)
    if any(table is not None for table in tables.values()):
        raise DataError(f"{name!r}: its splits are tables and torch data sets; give one kind.")
    return _read_items(name, {str(split): part for split, part in parts.items()})


def _refuse_streams(data: Any) -> None:
    if isinstance(data, (datasets.IterableDataset, datasets.IterableDatasetDict)):
        raise DataError(
            "A streaming data set can only be read once, from its front, and sessions need single images: load it whole, with "
            "load_dataset(..., streaming=False), or write a part to disk: datasets.Dataset.from_list(list(stream.take(10000)))."
        )
    if isinstance(data, (str, bytes)) or not isinstance(data, Items):
        raise DataError(
            f"{type(data).__name__} is no data set that open_images reads: it takes a path, a Hub id, a Dataset or DatasetDict of "
            "`datasets`, a map-style torch data set of (PIL image, int) with `classes`, a pandas or polars DataFrame, or a dict of these "
            "by split. "
            "An iterable is collected first: datasets.Dataset.from_list(list(it))."
        )


def _table(data: Any) -> Table | None:
    """Rows with columns; None for a data set of items."""
    if isinstance(data, datasets.Dataset):
        return Table(data)
    library = type(data).__module__.partition(".")[0]
    if library not in ("pandas", "polars"):
        return None
    if type(data).__name__ != "DataFrame" or not len(data):
        raise DataError(f"{type(data).__name__} of {library} is empty or no DataFrame.")
    if library == "polars":
        columns = data.to_dict(as_series=False)
    else:
        columns = {str(title): data[title].tolist() for title in data.columns}
    rows = {title: [_cell(value) for value in values] for title, values in columns.items()}
    return Table(datasets.Dataset.from_dict(rows), Path())


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _read_items(name: str, parts: Mapping[str, Any]) -> Splits:
    class_names: tuple[str, ...] | None = None
    images = {}
    for split, items in parts.items():
        names = _classes(items)
        if names is None:
            raise DataError(f"{name!r}: {type(items).__name__} has no `classes`, the names of its labels; set them: data.classes = [...].")
        if class_names is not None and names != class_names:
            raise DataError(
                f"{name!r}: the splits name their classes differently: {', '.join(class_names[:5])} and {', '.join(names[:5])}."
            )
        class_names = names
        images[split] = ImageSet(ItemStore(items), _labels(name, items))
    assert class_names is not None
    return Splits(images, class_names)


def _classes(items: Any) -> tuple[str, ...] | None:
    """Of the data set, or of what a `Subset` is taken from."""
    seen = items
    while seen is not None:
        names = getattr(seen, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str):
            return tuple(str(class_name) for class_name in names)
        seen = getattr(seen, "dataset", None)
    return None


def _labels(name: str, items: Any) -> np.ndarray:
    targets = getattr(items, "targets", None)
    if not len(items):
        return np.zeros(0, dtype=np.int64)
    first = items[0]
    if not (isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], Image.Image)):
        kind = type(first[0]).__name__ if isinstance(first, tuple) and first else type(first).__name__
        raise DataError(
            f"{name!r}: its items begin with {kind}, and (PIL image, int) is needed: leave transform out; hf_cl augments and scales itself."
        )
    found = np.asarray(_item_labels(items) if targets is None or len(targets) != len(items) else [int(label) for label in targets])
    if targets is not None and int(first[1]) != found[0]:  # a target_transform, say
        found = np.asarray(_item_labels(items))
    return found.astype(np.int64)


def _item_labels(items: Any) -> list[int]:
    # by number: few data sets raise the IndexError that ends a loop over them
    return [int(items[row][1]) for row in range(len(items))]
