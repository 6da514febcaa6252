"""Where the pictures of one split come from: files, a column of a Hugging Face data set, or an array. Each decodes a row on request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Protocol

import datasets
import numpy as np
import pyarrow.compute
from PIL import Image

from hf_cl.pictures import open_rgb


class ImageStore(Protocol):
    """The rows of one split. A row number is stable: it does not depend on which rows are used."""

    def __len__(self) -> int: ...
    def decode(self, row: int) -> Image.Image:
        """The picture as 8-bit RGB; raises what Pillow raises for a broken one."""
        ...

    def describe(self, row: int) -> str:
        """How an error message names the row."""
        ...

    def content(self, row: int) -> bytes:
        """The bytes of the picture as they are stored."""
        ...

    @property
    def file_names(self) -> Sequence[str] | None:
        """One path per row, with forward slashes; None where rows are not files."""
        ...


class FileStore:
    """Image files below one folder. `file_names` are relative to `root`."""

    def __init__(self, root: Path, file_names: Sequence[str]) -> None:
        self.root = root
        self._file_names = tuple(file_names)

    @property
    def file_names(self) -> Sequence[str]:
        return self._file_names

    def __len__(self) -> int:
        return len(self._file_names)

    def decode(self, row: int) -> Image.Image:
        return open_rgb(self.root / self._file_names[row])

    def content(self, row: int) -> bytes:
        return (self.root / self._file_names[row]).read_bytes()

    def describe(self, row: int) -> str:
        return self._file_names[row]


class ColumnStore:
    """The image column of a `datasets.Dataset`. Bytes are read from the Arrow file when a row is decoded."""

    def __init__(self, dataset: datasets.Dataset, column: str, split: str) -> None:
        self._dataset = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column = column
        self._split = split

    @property
    def file_names(self) -> Sequence[str] | None:
        return self._paths

    @cached_property
    def _paths(self) -> Sequence[str] | None:
        column = self._dataset.with_format("arrow")[:][self._column]
        paths = pyarrow.compute.struct_field(column, "path").to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        return tuple(path.replace("\\", "/") for path in paths) if all(paths) else None

    def __len__(self) -> int:
        return len(self._dataset)

    def decode(self, row: int) -> Image.Image:
        cell = self._dataset[row][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ValueError("the row holds no image")
        return open_rgb(cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"]))

    def content(self, row: int) -> bytes:
        cell = self._dataset[row][self._column]
        return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]

    def describe(self, row: int) -> str:
        return f"{self._split} row {row}" + (f" ({self.file_names[row]})" if self.file_names else "")


class ArrayStore:
    """Grey pictures held in memory, uint8 [n, H, W]."""

    file_names = None

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def decode(self, row: int) -> Image.Image:
        return Image.fromarray(self._pixels[row]).convert("RGB")

    def content(self, row: int) -> bytes:
        return self._pixels[row].tobytes()

    def describe(self, row: int) -> str:
        return f"row {row}"
