"""What every reader of images gives: the splits of a data set under the names they have there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hf_cl.scenarios.image_set import ImageSet

SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev")
UNSPLIT = "data"
"""The one split of data that names none."""
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Splits:
    """Images as they were found, before any check: labels may be missing (`NO_LABEL`) or out of range."""

    images: Mapping[str, ImageSet]
    """Split name -> its images."""
    class_names: tuple[str, ...]
    """In label order."""
