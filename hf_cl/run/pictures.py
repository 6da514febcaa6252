"""Which pictures a run trains on and keeps for testing, by content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice

from hf_cl.contracts import ImageDataset, Scenario
from hf_cl.errors import DataError, first_ten
from hf_cl.results.picture_record import Part, PictureRecord, differences
from hf_cl.scenarios import ImageSet, SessionStream, content_hashes
from hf_cl.scenarios.catalog import catalog
from hf_cl.scenarios.copies import copy_sentences, find_copies

logger = logging.getLogger(__name__)


def pictures_of(scenario: Scenario, *, trained_from: int = 0, sessions: int | None = None) -> Iterator[PictureRecord]:
    """What a run records of its pictures; of data sets of one's own, whose pictures have no stored bytes, nothing.

    Args:
        scenario: the sessions.
        trained_from: the training images of sessions before it are left out: they ended with what they had then.
        sessions: of how many; all by default.
    """
    if isinstance(scenario, SessionStream) and scenario.whole is not None:
        scenario = scenario.whole  # a run that goes on must know which pictures it would have been tested on
    validation = scenario.validation if isinstance(scenario, SessionStream) else ()
    for session in islice(scenario, sessions):
        held = validation[session.id] if validation else ()
        own = f"session-{session.id}"
        parts: tuple[tuple[Part, list[ImageDataset]], ...] = (
            ("train", [session.train] if session.id >= trained_from else []),
            ("test", [test.data for test in session.tests if test.name == own]),
            ("validation", [test.data for test in held if test.name == own]),
        )
        found: list[tuple[Part, ImageDataset]] = [(part, images) for part, sets in parts for images in sets]
        for part, images in found:
            if isinstance(images, ImageSet):
                for position, content in enumerate(content_hashes(images)):
                    name = session.class_names[int(images.labels[position])]
                    yield PictureRecord(content, images.describe(position), name, part, session.id)


def warn_of_copies(scenario: Scenario) -> None:
    """Say which pictures stand more than once in the stream, pixel by pixel; nothing is left out."""
    pictures = catalog(scenario, scenario.class_names)
    sentences = copy_sentences(find_copies(pictures), pictures) if len(pictures) else []
    if sentences:
        advice = "`hf-cl data` shows them, and with --write_exclude writes the file for --exclude."
        logger.warning("%s %s", " ".join(sentences), advice)


def compare_pictures(before: Sequence[PictureRecord], scenario: Scenario, taught: int, *, strict: bool) -> None:
    """Name, in a warning for each session, the pictures that it was tested on and that are gone.

    Args:
        before: the record of the run that goes on.
        scenario: its sessions now.
        taught: how many of them had begun.
        strict: allow no difference in them.

    Raises DataError where `strict` and a picture of a taught class is gone, new, or on another side.
    """
    now = list(pictures_of(scenario, sessions=taught))
    gone, new = differences(before, now, taught)
    if strict and (gone or new):
        kinds = [f"{len(found)} {word} ({_listed(found)})" for word, found in (("gone", gone), ("new", new)) if found]
        raise DataError(
            f"--strict_data: the pictures of taught classes are not those they were: {', '.join(kinds)}. Put them back, or go on without."
        )
    for session in range(taught):
        lost = [picture for picture in gone if picture.part == "test" and picture.session == session]
        left = sum(picture.part == "test" and picture.session == session for picture in now)
        if lost:
            names = first_ten(picture.name for picture in lost)
            pictures = f"{len(lost)} {'picture' if len(lost) == 1 else 'pictures'} that session {session} was tested on"
            logger.warning("Gone: %s: %s. From now on its column is the accuracy on %d.", pictures, names, left)


def _listed(pictures: Sequence[PictureRecord]) -> str:
    return first_ten(f"{picture.part}: {picture.name}" for picture in pictures)
