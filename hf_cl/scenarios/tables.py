"""A local folder of parquet or arrow files, or one that `datasets` saved."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.splits import SPLIT_NAMES, UNSPLIT


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of datasets wrote it."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def table_files(path: Path) -> list[Path]:
    """The parquet or arrow files below a folder, or the file itself, sorted. Hidden folders are skipped."""
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".arrow") else []
    found = [file for suffix in ("parquet", "arrow") for file in path.rglob(f"*.{suffix}")]
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))


def read_saved_dataset(folder: Path) -> dict[str, datasets.Dataset]:
    """Split name -> table of a folder written by `save_to_disk`."""
    loaded = datasets.load_from_disk(str(folder))
    return {str(split): table for split, table in loaded.items()} if isinstance(loaded, datasets.DatasetDict) else {UNSPLIT: loaded}


def read_tables(root: Path, files: list[Path], test_split: str) -> dict[str, datasets.Dataset]:
    """Split name -> table. A file's split is told by its name (`train-00000-of-00002.parquet`) or its folder (`test/0000.parquet`).

    Raises DataError for a mixture of file kinds, of files with and without a split, or for files that cannot be read.
    """
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise DataError(f"{root} holds parquet and arrow files; keep one kind.")
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_split[split_of(file, root, test_split)].append(file)
    if UNSPLIT in by_split and len(by_split) > 1:
        names = first_ten(str(file.relative_to(root)) for file in by_split[UNSPLIT])
        raise DataError(f"{root}: the names of some files tell no split: {names}. Let them begin with train, test or validation.")
    # `datasets` reads every path as a pattern
    patterns = {split: [glob.escape(str(file)) for file in paths] for split, paths in by_split.items()}
    try:
        loaded = datasets.load_dataset(kinds.pop().removeprefix("."), data_files=patterns)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{root}: its files cannot be read: {' '.join(str(error.__cause__ or error).split())}") from error
    return {str(split): table for split, table in loaded.items()}


def split_of(file: Path, root: Path, test_split: str) -> str:
    """The split a file belongs to; `UNSPLIT` where neither its name nor a folder above it says."""
    token = re.split(r"[-.]", file.name)[0]
    names = (*SPLIT_NAMES, test_split)
    if token in names:
        return token
    for prefix in ("train", "test", "validation"):
        if token.startswith(prefix):
            return prefix
    folders = file.relative_to(root).parts[:-1]
    return next((folder for folder in reversed(folders) if folder in names), UNSPLIT)
