"""A folder of images, one folder per class, with or without a split above or below the classes."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path, PurePosixPath

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.picture_files import PictureFiles, folders_in, picture_files, suffixes
from hf_cl.scenarios.splits import UNSPLIT, Splits, is_split_word, split_kind

logger = logging.getLogger(__name__)


def read_image_folder(root: Path, test_split: str, found: PictureFiles | None = None) -> Splits:
    """`root/<class>/...` (one split, `UNSPLIT`), `root/<split>/<class>/...` or `root/<class>/<split>/...`; other folders inside a class
    folder belong to the class.

    Classes are the folder names, sorted; rows are the files sorted by path, so both depend on names alone. Splits may be spelled as
    `split_kind` knows them. A class may be called like a split: `train` is one only if its images lie in folders of their own.

    Args:
        root: the folder.
        test_split: also a split, whatever it is called.
        found: its pictures, where they are listed already.

    Raises DataError where there are no images or no class folders, where some folders look like splits and others like classes, and where
    all do on two levels.
    """
    found = picture_files(root) if found is None else found
    if not found.files:
        left_out = f" Its {found.remark()}" if found.passed_over else ""
        raise DataError(f"{root} holds no images (looked for {', '.join(sorted(suffixes()))}).{left_out}")
    found.say_passed_over(root)
    files = found.files
    flat = {path.parts[0] for path in files if len(path.parts) == 2}
    deep = {path.parts[0] for path in files if len(path.parts) > 2}
    if not flat | deep or (not deep and _all_splits(flat, test_split)):
        where = f"{root}/{min(flat)}" if flat else str(root)
        raise DataError(f"{where} holds images but no class folders. Expected {where}/<class>/*.jpg.{_table_hint(root)}")
    if splits := _splits_above(root, flat, deep, test_split):
        below = {path.parts[1] for path in files if len(path.parts) > 2}
        if _all_splits(below, test_split):
            raise DataError(
                f"{root} holds folders that are called like splits ({first_ten(sorted(deep))}), and so are those inside them "
                f"({first_ten(sorted(below))}). Which are the classes? Rename the folders of the classes."
            )
        return _read_splits(root, files, splits, test_split)
    if _splits_are_below(root, files, test_split):
        return _read_splits_below(root, files)
    class_names = tuple(folders_in(root))
    return Splits({UNSPLIT: _labelled(root, files, 0, class_names)}, class_names)


def _all_splits(names: set[str], test_split: str) -> bool:
    """Whether every folder says which split it is: in one word, or in words of several kinds (`my_train`, `my_test`)."""
    kinds = {split_kind(name) or (name if name == test_split else None) for name in names}
    return None not in kinds and (len(kinds) > 1 or all(is_split_word(name) or name == test_split for name in names))


def _splits_above(root: Path, flat: set[str], deep: set[str], test_split: str) -> list[str]:
    """The folders of `root`, where they are splits."""
    if _all_splits(flat | deep, test_split):
        if deep <= flat:
            raise DataError(
                f"{root} holds folders that are called like splits ({first_ten(sorted(deep))}), each with images of its own beside its "
                "folders. Are they splits or classes? Images of a split lie in class folders; rename a class that is called like a split."
            )
        return sorted(flat | deep)
    named = {name for name in deep - flat if split_kind(name) or name == test_split}
    certain = [name for name in sorted(named) if is_split_word(name) or name == test_split]
    if not certain and len({split_kind(name) for name in named}) < 2:
        return []
    if flat:
        raise DataError(
            f"{root} holds folders of class folders that are called like splits ({first_ten(sorted(named))}), and beside them folders with "
            f"images of their own ({first_ten(sorted(flat))}). Are they splits or classes? Move what does not belong there."
        )
    return sorted(deep)


def _splits_are_below(root: Path, files: list[PurePosixPath], test_split: str) -> bool:
    """Whether each class folder holds `train` and `test`, instead of the other way round."""
    inside: dict[str, set[str]] = defaultdict(set)
    for path in files:
        if len(path.parts) > 1:
            inside[path.parts[0]].add(path.parts[1] if len(path.parts) > 2 else "")
    split = {name for name, below in inside.items() if _all_splits(below, test_split)}
    if split and split != inside.keys():
        raise DataError(
            f"{root}: the images of {first_ten(sorted(split))} lie in folders called like splits, those of "
            f"{first_ten(sorted(inside.keys() - split))} do not. Part all classes, or none."
        )
    return bool(split)


def _read_splits(root: Path, files: list[PurePosixPath], splits: list[str], test_split: str) -> Splits:
    # a folder of another name may lie beside the splits; its folders are not classes
    known = [name for name in splits if split_kind(name) or name == test_split]
    class_names = tuple(sorted({name for split in known for name in folders_in(root / split)}))
    _report_stray(root, [path for path in files if len(path.parts) == 1])
    images = {split: _labelled(root, [path for path in files if path.parts[0] == split], 1, class_names) for split in splits}
    return Splits(images, class_names)


def _read_splits_below(root: Path, files: list[PurePosixPath]) -> Splits:
    class_names = tuple(folders_in(root))
    by_split: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in files:
        by_split[path.parts[1] if len(path.parts) > 2 else ""].append(path)
    _report_stray(root, by_split.pop("", []))
    kinds = {split: split_kind(split) or split for split in by_split}  # `cat/Train` and `dog/train` are one split
    merged: dict[str, list[PurePosixPath]] = defaultdict(list)
    for split, paths in by_split.items():
        merged[kinds[split]] += paths
    return Splits(
        {split: _labelled(root, sorted(paths, key=lambda path: path.parts), 0, class_names) for split, paths in merged.items()}, class_names
    )


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


def _table_hint(root: Path) -> str:
    tables = sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet"))
    return f" Or, where {tables[0]} says what they are: --dataset {root / tables[0]}." if tables else ""
