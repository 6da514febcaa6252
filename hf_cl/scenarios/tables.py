"""Tables on disk: parquet, arrow, CSV, TSV, JSON lines, or what `datasets` saved. Each file is read by its own schema."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.picture_files import is_no_content
from hf_cl.scenarios.splits import UNSPLIT, is_split_word, split_kind
from hf_cl.scenarios.text_tables import TEXT_SUFFIXES, read_text_table

if TYPE_CHECKING:
    import datasets
    import pyarrow

BINARY_SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True)
class Table:
    """Rows of one schema, and the folder that paths in them start from (None: where the program runs)."""

    rows: datasets.Dataset
    folder: Path | None = None


Tables = Mapping[str, Sequence[Table]]
"""Split name -> its tables, in the order of their rows."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of datasets wrote it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_table(file: Path) -> bool:
    """Whether a file is one of those that are read as tables, by its suffix."""
    return file.suffix.lower() in (*BINARY_SUFFIXES, *TEXT_SUFFIXES)


def table_files(folder: Path) -> list[Path]:
    """The table files below a folder, sorted. Hidden folders, and those that are no content, are skipped."""
    found = [file for file in folder.rglob("*") if is_table(file) and file.is_file()]
    return sorted(file for file in found if not any(map(is_no_content, file.relative_to(folder).parts)))


def read_saved_dataset(folder: Path) -> Tables:
    """The tables of a folder written by `save_to_disk`."""
    import datasets  # noqa: PLC0415 (photos in folders do not wait for it)

    loaded = datasets.load_from_disk(str(folder))
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {UNSPLIT: loaded}
    return {str(split): [Table(rows)] for split, rows in parts.items()}


def read_tables(root: Path, files: Sequence[Path], test_split: str) -> Tables:
    """Split name -> tables. A file's split is told by its name (`train-00000-of-00002.parquet`) or its folder (`test/0000.parquet`).

    Raises DataError for a mixture of file kinds, of files with and without a split, or for files that cannot be read.
    """
    kinds = sorted({file.suffix.lower().removeprefix(".") for file in files})
    if len(kinds) > 1:
        raise DataError(f"{root} holds {' and '.join(kinds)} files; keep one kind, or give one file.")
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_split[split_of(file, root, test_split)].append(file)
    if UNSPLIT in by_split and len(by_split) > 1:
        names = first_ten(str(file.relative_to(root)) for file in by_split[UNSPLIT])
        raise DataError(f"{root}: the names of some files tell no split: {names}. Let them begin with train, test or validation.")
    order = sorted(by_split, key=lambda split: split_kind(split) != "train")  # the training tables say in which order classes stand
    return {split: read_files(by_split[split]) for split in order}


def read_files(files: Sequence[Path]) -> list[Table]:
    """The tables of files of one kind; neighbours of one schema are one table."""
    if files[0].suffix.lower() in TEXT_SUFFIXES:
        return [Table(read_text_table(file), file.parent) for file in files]
    parts = [(schema_of(file), file.parent, file) for file in files]
    return [
        Table(_load(schema_and_folder[0], [file for *_, file in group]), schema_and_folder[1])
        for schema_and_folder, group in ((key, list(found)) for key, found in groupby(parts, key=lambda part: part[:2]))
    ]


def schema_of(file: Path) -> datasets.Features:
    """The columns of a parquet or arrow file, with the ClassLabels written beside them. Raises DataError."""
    import datasets  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        if file.suffix.lower() == ".parquet":
            schema = pyarrow.parquet.read_schema(file)
        else:
            with pyarrow.memory_map(str(file)) as source:
                schema = _arrow_schema(source)
        return datasets.Features.from_arrow_schema(schema)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.parent}: its files cannot be read: {file.name}: {' '.join(str(error).split())}") from error


def _arrow_schema(source: pyarrow.NativeFile) -> pyarrow.Schema:
    import pyarrow  # noqa: PLC0415

    try:
        return pyarrow.ipc.open_stream(source).schema
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_file(source).schema


def _load(features: datasets.Features, files: Sequence[Path]) -> datasets.Dataset:
    import datasets  # noqa: PLC0415
    import pyarrow  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    kind = files[0].suffix.lower().removeprefix(".")
    try:  # `datasets` reads every path as a pattern
        return datasets.load_dataset(kind, data_files=[glob.escape(str(file)) for file in files], split="train", features=features)
    except (DatasetsError, OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{files[0].parent}: its files cannot be read: {' '.join(str(error.__cause__ or error).split())}") from error


def split_of(file: Path, root: Path, test_split: str) -> str:
    """The split of a file, train, test or validation, or `test_split`; `UNSPLIT` where neither its name nor a folder above it says."""
    if test_split in (re.split(r"[-.]", file.name)[0], file.stem):
        return test_split
    if kind := split_kind(file.stem):
        return kind
    for folder in reversed(file.relative_to(root).parts[:-1]):
        if folder == test_split or is_split_word(folder) or split_kind(folder):
            return test_split if folder == test_split else split_kind(folder) or folder
    return UNSPLIT
