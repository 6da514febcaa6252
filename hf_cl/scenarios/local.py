"""What lies at a path: a folder of class folders, tables, or photos with a table that says what they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.folder import read_image_folder
from hf_cl.scenarios.picture_files import PictureFiles, is_no_content, picture_files, suffixes
from hf_cl.scenarios.splits import Splits, is_split_word
from hf_cl.scenarios.tables import (
    BINARY_SUFFIXES,
    Table,
    Tables,
    is_saved_dataset,
    is_table,
    read_saved_dataset,
    read_tables,
    schema_of,
    table_files,
)

logger = logging.getLogger(__name__)

METADATA = "metadata"
"""The table beside photos that `imagefolder` of the Hub reads, with a column `file_name`."""
FILE_NAME = "file_name"


def read_local(
    path: Path, name: str, image_column: str | None, label_column: str | None, test_split: str, domain_column: str | None = None
) -> Splits:
    """The splits of what lies at `path`, which exists. Raises DataError for what is no data, or two kinds of data at once."""
    root = path if path.is_file() else _unwrapped(path, test_split)
    pictures = None if path.is_file() or is_saved_dataset(root) else picture_files(root)
    if pictures and pictures.files and (metadata := [file for file in table_files(root) if file.stem.casefold() == METADATA]):
        described = _read_metadata(root, name, metadata, pictures, label_column, domain_column, test_split)
        if described is not None:
            return described
    tables = tables_at(root, test_split, pictures)
    if tables is not None:
        return _splits_of(name, tables, image_column, label_column, domain_column)
    return read_image_folder(root, test_split, pictures)


def tables_at(path: Path, test_split: str = "test", pictures: PictureFiles | None = None) -> Tables | None:
    """The tables that are the data at `path`, which exists; None where photos are.

    Args:
        path: a table, a folder that `datasets` saved, or a folder of tables or photos.
        test_split: a split of the user's own name.
        pictures: the photos below the folder, where they have been listed.

    Raises DataError for a file that is no table, and for tables with pictures and photos at once.
    """
    if path.is_file():
        if not is_table(path):
            raise DataError(f"{path} is neither a folder nor a table (parquet, arrow, csv, tsv, jsonl).")
        return read_tables(path.parent, [path], test_split)
    if is_saved_dataset(path):
        return read_saved_dataset(path)
    used = _usable(path, table_files(path), pictures or picture_files(path))
    return read_tables(path, used, test_split) if used else None


def _splits_of(name: str, tables: Tables, image_column: str | None, label_column: str | None, domain_column: str | None) -> Splits:
    from hf_cl.scenarios.columns import read_columns  # noqa: PLC0415 (datasets: photos in folders do not wait for it)

    return read_columns(name, tables, image_column, label_column, domain_column)


def _unwrapped(folder: Path, test_split: str) -> Path:
    """The folder itself, or the one inside it that holds everything: what unpacking an archive leaves."""
    while True:
        content = [entry for entry in folder.iterdir() if not is_no_content(entry.name)]
        inner = [entry for entry in content if entry.is_dir()]
        if len(inner) != 1 or any(is_table(entry) for entry in content) or is_saved_dataset(folder):
            return folder
        name, below = inner[0].name, [entry for entry in inner[0].iterdir() if not is_no_content(entry.name)]
        only_folders = any(entry.is_dir() for entry in below) and not _has_pictures(inner[0])
        if (
            is_split_word(name)
            or name == test_split
            or not (only_folders or is_saved_dataset(inner[0]))
            or inner[0].resolve() in folder.resolve().parents
        ):
            return folder
        logger.warning("%s holds one folder around everything; the data are read from %s.", folder, inner[0])
        folder = inner[0]


def _has_pictures(folder: Path) -> bool:
    """Whether pictures lie in the folder itself."""
    return any(entry.suffix.lower() in suffixes() and entry.is_file() for entry in folder.iterdir())


def _usable(root: Path, tables: Sequence[Path], pictures: PictureFiles) -> list[Path]:
    """The tables that are the data; none where photos are. What is passed over is said in a line."""
    binary = [file for file in tables if file.suffix.lower() in BINARY_SUFFIXES]
    if not pictures.files:
        if binary and len(binary) < len(tables):
            _say(root, "tables of another kind are not read", [file for file in tables if file not in binary])
        return binary or list(tables)
    holding = _holding(binary)
    folders = {path.parts[0] for path in pictures.files if len(path.parts) > 1}
    if holding and len(folders) > 1:
        raise DataError(
            f"{root} holds tables with pictures ({first_ten(str(file.relative_to(root)) for file in holding)}) and photos in folders "
            f"({first_ten(map(str, pictures.files))}). Give the one you mean: --dataset {holding[0]}, or a folder without the other."
        )
    if holding:
        _say(root, "the data are its tables; photos beside them are not read", pictures.files)
        return holding
    if tables:
        then = f" Where one says what the photos are, name it: --dataset {tables[0]}."
        _say(root, "the data are its photos; table files among them are not read", [file.relative_to(root) for file in tables], then)
    return []


def _holding(files: Sequence[Path]) -> list[Path]:
    """Those of the table files that hold pictures."""
    if not files:
        return []
    from hf_cl.scenarios.columns import holds_pictures  # noqa: PLC0415

    return [file for file in files if holds_pictures(schema_of(file))]


def _say(root: Path, what: str, files: Sequence[object], then: str = "") -> None:
    logger.warning("%s: %s: %s.%s", root, what, first_ten(map(str, files)), then)


def _read_metadata(
    root: Path,
    name: str,
    files: Sequence[Path],
    pictures: PictureFiles,
    label_column: str | None,
    domain_column: str | None,
    test_split: str,
) -> Splits | None:
    """Photos and classes as the metadata files list them; None where these do not tell the class, which the folders then do."""
    parts = read_tables(root, files, test_split)
    first: Table = next(iter(parts.values()))[0]
    if FILE_NAME not in first.rows.features:
        raise DataError(f"{files[0]} has no column {FILE_NAME!r}; it has {', '.join(first.rows.features)}.")
    try:
        splits = _splits_of(name, parts, FILE_NAME, label_column, domain_column)
    except DataError:
        if label_column is not None or domain_column is not None or not any(len(path.parts) > 1 for path in pictures.files):
            raise
        logger.warning("%s does not tell the classes; they are read from the names of the folders.", files[0])
        return None
    unlisted = len(pictures.files) - sum(len(images) for images in splits.images.values())
    if unlisted > 0:
        logger.warning(
            "%s: %d pictures are not listed in %s and are not used.",
            root,
            unlisted,
            first_ten(str(file.relative_to(root)) for file in files),
        )
    pictures.say_passed_over(root)
    return splits
