"""Pictures that nobody has labelled, or whose labels are not read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hf_cl.errors import DataError, exists, first_ten, no_such_dataset, refuse_two_meanings
from hf_cl.scenarios.digits import read_digits
from hf_cl.scenarios.hub import HubAddress, read_hub
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.local import tables_at
from hf_cl.scenarios.picture_check import UnreadableImage, check_pictures
from hf_cl.scenarios.picture_files import picture_files
from hf_cl.scenarios.sources import DIGITS
from hf_cl.scenarios.splits import is_split_word, split_kind
from hf_cl.scenarios.tables import Table, Tables

logger = logging.getLogger(__name__)

TRAINED_ON = ("train", None)
"""Kinds of split that are taken; None: one of no known name, such as `unlabeled`."""


def read_unlabelled(
    images: str | Path, image_column: str | None = None, check: Callable[[ImageSet], Sequence[UnreadableImage]] = check_pictures
) -> ImageSet:
    """The pictures of what `open_images` takes by name, without labels: all below a folder, sorted by path; tables; a Hub id; digits.

    Labels need not be there and are not read. What is called test or validation stays out, with a logged warning, unless there is nothing
    else; so do pictures that cannot be read.

    Args:
        images: a folder of photos or tables, a table, a Hub id with `:config` and `@revision` where wanted, or `digits`.
        image_column: of tables that do not tell it.
        check: finds unreadable images, as for `open_images`.

    Raises DataError where there is no such data, or no picture in it that can be read.
    """
    found = _read(str(images), image_column)
    bad = check(found)
    if bad:
        names = first_ten(found.describe(one.position) for one in bad)
        logger.warning("%s: %d images cannot be read and are left out: %s.", images, len(bad), names)
    kept = np.setdiff1d(np.arange(len(found)), [one.position for one in bad])
    if not len(kept):
        raise DataError(f"{images} has no picture that can be read.")
    return found.subset(kept)


def _read(images: str, image_column: str | None) -> ImageSet:
    if images == DIGITS:
        refuse_two_meanings(images, "the digits of scikit-learn")
        (digits,) = read_digits().images.values()
        return ImageSet(digits.store, np.full(len(digits), NO_LABEL))
    path = Path(images).expanduser()
    if images and exists(path):
        tables = tables_at(path)
        return _photos(path) if tables is None else _pictures_of(images, tables, image_column)
    address = HubAddress.parse(images)
    if address is None:
        raise DataError(no_such_dataset(images))
    return _pictures_of(images, {split: [Table(rows)] for split, rows in read_hub(address).items()}, image_column)


def _pictures_of(images: str, tables: Tables, image_column: str | None) -> ImageSet:
    from hf_cl.scenarios.columns import read_images  # noqa: PLC0415 (datasets: photos in folders do not wait for it)

    taken = _taken(images, list(tables), [split_kind(split) for split in tables])
    return read_images(images, {split: tables[split] for split in taken}, image_column)


def _photos(root: Path) -> ImageSet:
    found = picture_files(root)
    found.say_passed_over(root)
    kinds = [next((split_kind(part) for part in path.parts[:-1] if is_split_word(part)), None) for path in found.files]
    taken = _taken(str(root), [path.as_posix() for path in found.files], kinds)
    return ImageSet(FileStore(root, taken), np.full(len(taken), NO_LABEL))


def _taken(images: str, names: Sequence[str], kinds: Sequence[str | None]) -> list[str]:
    """The names but those of test and validation splits; all of them where there is nothing else."""
    taken = [name for name, kind in zip(names, kinds, strict=True) if kind in TRAINED_ON]
    if taken and len(taken) < len(names):
        left = [name for name, kind in zip(names, kinds, strict=True) if kind not in TRAINED_ON]
        logger.warning("%s: what is called test or validation is left out: %s.", images, first_ten(left))
    return taken or list(names)
