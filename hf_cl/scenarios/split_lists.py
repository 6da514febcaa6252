"""`train.txt` and `test.txt`: a published split of a data set that has none (ImageNet-R)."""

from __future__ import annotations

import dataclasses
import logging
import os

import numpy as np

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.index_list import ImageFinder, OnceOnly, digest, list_folder, read_list
from hf_cl.scenarios.sources import ImageSource

logger = logging.getLogger(__name__)

LISTED_SPLIT = "index list"


def split_by_lists(source: ImageSource, index_list: str | os.PathLike[str]) -> tuple[ImageSource, dict[str, str]]:
    """The source with training and test images as `train.txt` and `test.txt` list them, by row or file name, and the lists' identity.

    Images in neither list are not used, with a logged warning.

    Raises DataError, with file and line, for lists that name an image twice or one that is not there, or leave a class without training or
    test images; and for a source that has a test split of its own.
    """
    if source.unsplit is None:
        raise DataError(
            f"{source.name!r} has a test split of its own ({source.test_split}); train.txt and test.txt are for data sets without one."
        )
    folder = list_folder(index_list, source.short_name, "train.txt")
    lists = [read_list(folder / "train.txt"), read_list(folder / "test.txt")]
    finder, once = ImageFinder(source.unsplit, "images"), OnceOnly()
    parts = []
    for lines in lists:
        positions = [finder.find(line) for line in lines]
        for position, line in zip(positions, lines, strict=True):
            once.add(position, line)
        part = source.unsplit.subset(np.sort(positions))
        counts = part.counts(len(source.class_names))
        if lacking := [repr(name) for name, count in zip(source.class_names, counts, strict=True) if count == 0]:
            raise DataError(f"{lines[0].file} lists no image of {len(lacking)} classes: {first_ten(lacking)}.")
        parts.append(part)
    train, test = parts
    if unused := len(source.unsplit) - len(train) - len(test):
        logger.warning("%s: %d of %d images are in neither list and are not used.", folder, unused, len(source.unsplit))
    listed = dataclasses.replace(source, train=train, test=test, test_split=LISTED_SPLIT, unsplit=None)
    return listed, {"kind": "custom", "sha256": digest(lists)}
