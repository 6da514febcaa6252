"""A folder of images, one folder per class, with or without a split above the classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.splits import SPLIT_NAMES, UNSPLIT, Splits

logger = logging.getLogger(__name__)

SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".avif",
}


def read_image_folder(root: Path, test_split: str) -> Splits:
    """`root/<class>/...` (one split, `UNSPLIT`) or `root/<split>/<class>/...`; folders inside a class folder belong to the class.

    Classes are the folder names, sorted; rows are the files sorted by path, so both depend on names alone. A class may be called like a
    split: `train` is one only if its images lie in folders of their own. Names that begin with a dot are skipped; links are followed.

    Raises DataError where there are no images or no class folders.
    """
    files = sorted(_image_files(root, PurePosixPath(), (root.resolve(),)), key=lambda path: path.parts)
    if not files:
        raise DataError(f"{root} holds no images (looked for {', '.join(sorted(SUFFIXES))}).")
    below = {path.parts[0] for path in files if len(path.parts) > 1}
    flat = {path.parts[0] for path in files if len(path.parts) == 2}
    deep = {path.parts[0] for path in files if len(path.parts) > 2}
    split_names = {*SPLIT_NAMES, test_split}
    if not below or (below <= split_names and not deep):
        where = f"{root}/{min(below)}" if below else str(root)
        raise DataError(f"{where} holds images but no class folders. Expected {where}/<class>/*.jpg.")
    if (deep - flat) & split_names or below <= split_names:
        return _read_splits(root, files, sorted(below), split_names)
    class_names = _folders(root)
    return Splits({UNSPLIT: _labelled(root, files, 0, class_names)}, class_names)


def _read_splits(root: Path, files: list[PurePosixPath], splits: list[str], split_names: set[str]) -> Splits:
    # a folder of another name may lie beside the splits; its folders are not classes
    class_names = tuple(sorted({name for split in splits if split in split_names for name in _folders(root / split)}))
    _report_stray(root, [path for path in files if len(path.parts) == 1])
    images = {split: _labelled(root, [path for path in files if path.parts[0] == split], 1, class_names) for split in splits}
    return Splits(images, class_names)


def _labelled(root: Path, files: list[PurePosixPath], depth: int, class_names: tuple[str, ...]) -> ImageSet:
    """Part `depth` of each path is the class."""
    _report_stray(root, [path for path in files if len(path.parts) < depth + 2])
    kept = [path for path in files if len(path.parts) >= depth + 2]
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = [label_of.get(path.parts[depth], NO_LABEL) for path in kept]
    return ImageSet(FileStore(root, [str(path) for path in kept]), labels)


def _report_stray(root: Path, files: list[PurePosixPath]) -> None:
    if files:
        logger.warning("%s: %d images lie outside of class folders and are not used: %s.", root, len(files), first_ten(map(str, files)))


def _folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name)))


def _image_files(folder: Path, relative: PurePosixPath, above: tuple[Path, ...]) -> Iterator[PurePosixPath]:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if _hidden(entry.name):
            continue
        if not entry.is_dir():
            if Path(entry.name).suffix.lower() in SUFFIXES:
                yield relative / entry.name
        elif (target := Path(entry.path).resolve()) not in above:  # a link to a folder above would go round for ever
            yield from _image_files(Path(entry.path), relative / entry.name, (*above, target))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
