"""Where the pictures of one split come from: files, a column of a Hugging Face data set, or an array. Each decodes a row on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_cl.pictures import open_rgb, opened

if TYPE_CHECKING:
    import datasets


class ImageStore(Protocol):
    """The rows of one split. A row number is stable: it does not depend on which rows are used."""

    def __len__(self) -> int: ...
    def decode(self, row: int) -> Image.Image:
        """The picture as 8-bit RGB; raises what Pillow raises for a broken one."""
        ...

    def open(self, row: int) -> Image.Image:
        """The picture with its header read alone, as a context that closes it; raises as `decode`."""
        ...

    def describe(self, row: int) -> str:
        """How an error message names the row."""
        ...

    def content(self, row: int) -> bytes:
        """The bytes of the picture as they are stored."""
        ...

    def stamps(self, rows: Sequence[int]) -> NDArray[np.uint64] | None:
        """What a picture can be known again by: equal stamps, unchanged pictures. 0 where it cannot be told, None where none can."""
        ...

    @property
    def place(self) -> str:
        """Where the rows come from, in a few words that tell it from other places."""
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
    def place(self) -> str:
        return str(self.root.resolve())

    @property
    def file_names(self) -> Sequence[str]:
        return self._file_names

    def __len__(self) -> int:
        return len(self._file_names)

    def open(self, row: int) -> Image.Image:
        return opened(self.root / self._file_names[row])

    def decode(self, row: int) -> Image.Image:
        return open_rgb(self.root / self._file_names[row])

    def content(self, row: int) -> bytes:
        return (self.root / self._file_names[row]).read_bytes()

    def stamps(self, rows: Sequence[int]) -> NDArray[np.uint64]:
        """Of name, size and time of the last change."""
        place = self.place
        return np.array([_stamp_of_file(f"{place}/{self._file_names[row]}") for row in rows], dtype=np.uint64)

    def describe(self, row: int) -> str:
        return self._file_names[row]


class ColumnStore:
    """The image column of a `datasets.Dataset`. Bytes are read from the Arrow file when a row is decoded."""

    def __init__(self, dataset: datasets.Dataset, column: str, split: str) -> None:
        import datasets  # noqa: PLC0415 (photos in folders do not wait for it)

        self._dataset = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column = column
        self._split = split

    @property
    def place(self) -> str:
        return " ".join([*(file["filename"] for file in self._dataset.cache_files), self._split, self._column])

    @property
    def file_names(self) -> Sequence[str] | None:
        return self._paths

    @cached_property
    def _paths(self) -> Sequence[str] | None:
        import pyarrow.compute  # noqa: PLC0415

        column = self._dataset.with_format("arrow")[:][self._column]
        paths = pyarrow.compute.struct_field(column, "path").to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        return tuple(path.replace("\\", "/") for path in paths) if all(paths) else None

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self, row: int) -> Image.Image:
        return opened(self._content(row))

    def decode(self, row: int) -> Image.Image:
        return open_rgb(self._content(row))

    def _content(self, row: int) -> str | BytesIO:
        cell = self._dataset[row][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ValueError("the row holds no image")
        return cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"])

    def stamps(self, rows: Sequence[int]) -> NDArray[np.uint64] | None:
        """Of the table's own files and the row; of a cell that names a file, that file's."""
        files = [file["filename"] for file in self._dataset.cache_files]
        if not files:
            return None
        table, outside = f"{[_stamp_of_file(file) for file in files]} {self.place}", self._outside
        stamps = [_stamp_of_file(outside[row]) if row in outside else _stamp(f"{table} {row}") for row in rows]
        return np.array(stamps, dtype=np.uint64)

    @cached_property
    def _outside(self) -> dict[int, str]:
        """Rows whose picture is a file beside the table."""
        import pyarrow.compute  # noqa: PLC0415

        column = self._dataset.with_format("arrow")[:][self._column]
        inside, path = (pyarrow.compute.struct_field(column, field) for field in ("bytes", "path"))  # pyright: ignore[reportAttributeAccessIssue]
        rows = np.flatnonzero(inside.is_null().to_numpy()).tolist()
        return {row: path[row].as_py() for row in rows if path[row].is_valid}

    def content(self, row: int) -> bytes:
        cell = self._dataset[row][self._column]
        return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]

    def describe(self, row: int) -> str:
        return f"{self._split} row {row}" + (f" ({self.file_names[row]})" if self.file_names else "")


class ArrayStore:
    """Grey pictures held in memory, uint8 [n, H, W]."""

    file_names = None
    place = "memory"

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def open(self, row: int) -> Image.Image:
        return Image.fromarray(self._pixels[row])

    def decode(self, row: int) -> Image.Image:
        return self.open(row).convert("RGB")

    def stamps(self, rows: Sequence[int]) -> None:
        """They are in memory: looking at them costs nothing."""
        return

    def content(self, row: int) -> bytes:
        return self._pixels[row].tobytes()

    def describe(self, row: int) -> str:
        return f"row {row}"


def _stamp(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "little") or 1


def _stamp_of_file(path: str) -> int:
    try:
        found = os.stat(path)  # noqa: PTH116 (a million times)
    except (OSError, ValueError):  # decoding will say what is wrong
        return 0
    return _stamp(f"{path}\0{found.st_size}\0{found.st_mtime_ns}")
