"""Sessions whose training images have unlabelled ones beside them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from hf_cl.contracts import Session
from hf_cl.memory.image_arrays import ImageArrays
from hf_cl.memory.joined import joined
from hf_cl.scenarios import ImageSet, SessionStream, content_hashes

logger = logging.getLogger(__name__)


class Unlabelled(ImageArrays):
    """Pictures as `hf_cl.contracts.ImageDataset`, under a label that says nothing: whoever trains on them reads no labels.

    Args:
        images: the pictures.
        label: what stands for their labels, a class of the session.
        first_index: sample ids count from here.
    """

    def __init__(self, images: ImageSet, label: int, first_index: int) -> None:
        self.images = images
        super().__init__(np.full(len(images), label), np.arange(first_index, first_index + len(images)))

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**self.images[position], "label": int(self._labels[position]), "index": int(self._indices[position])}


def without_known(images: ImageSet, scenario: SessionStream) -> ImageSet:
    """Without copies of the stream's own pictures: test pictures must not be trained on, and training pictures are there already.

    Raises ValueError where none is left.
    """
    tests, train = (_contents(scenario, part) for part in ("tests", "train"))
    contents = content_hashes(images)
    tested = np.asarray([content in tests for content in contents], dtype=bool)
    kept = ~tested & np.asarray([content not in train for content in contents], dtype=bool)
    if tested.any():
        logger.warning("%d of the unlabelled images are test images of the data set; they are left out.", int(tested.sum()))
    if not kept.any():
        raise ValueError("All unlabelled images are pictures of the data set itself, so they add nothing; leave --images out.")
    return images.subset(kept)


def _contents(scenario: SessionStream, part: str) -> set[str]:
    sets = [s.train for s in scenario] if part == "train" else [test.data for session in scenario for test in session.tests]
    unique = {id(images): images for images in sets if isinstance(images, ImageSet)}
    return {content for images in unique.values() for content in content_hashes(images)}


def beside(scenario: SessionStream, images: ImageSet) -> SessionStream:
    """The stream with the images shuffled in with those of every session."""
    first = 1 + max(int(np.max(session.train.indices)) for session in scenario if len(session.train))

    def with_images(session: Session) -> Session:
        both = joined(session.train, Unlabelled(images, session.own.start, first))
        return replace(session, joined=len(images), joined_images=both)

    return replace(scenario, sessions=tuple(map(with_images, scenario)))
