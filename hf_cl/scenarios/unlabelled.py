"""Pictures that nobody has labelled, from a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hf_cl.errors import DataError, first_ten, near_path
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.picture_check import UnreadableImage, check_pictures
from hf_cl.scenarios.picture_files import picture_files

logger = logging.getLogger(__name__)


def read_unlabelled(folder: str | Path, check: Callable[[ImageSet], Sequence[UnreadableImage]] = check_pictures) -> ImageSet:
    """All pictures below a folder, sorted by path, without labels. Those that cannot be read are left out, with a logged warning.

    Raises DataError where there is no such folder, or no picture in it that can be read.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {str(folder)!r} of images.{near_path(root)}")
    found = picture_files(root)
    found.say_passed_over(root)
    images = ImageSet(FileStore(root, [str(path) for path in found.files]), np.full(len(found.files), NO_LABEL))
    bad = check(images)
    if bad:
        names = first_ten(images.describe(one.position) for one in bad)
        logger.warning("%s: %d images cannot be read and are left out: %s.", root, len(bad), names)
    kept = np.setdiff1d(np.arange(len(images)), [one.position for one in bad])
    if not len(kept):
        raise DataError(f"{root} has no picture that can be read.")
    return images.subset(kept)
