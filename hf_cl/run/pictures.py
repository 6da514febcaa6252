"""Which pictures a run trains on and keeps for testing, by content."""

from __future__ import annotations

from collections.abc import Iterator

from hf_cl.contracts import ImageDataset, Scenario
from hf_cl.results.picture_record import Part, PictureRecord
from hf_cl.scenarios import ImageSet, SessionStream, content_hashes


def pictures_of(scenario: Scenario) -> Iterator[PictureRecord]:
    """What a run records of its pictures; of data sets of one's own, whose pictures have no stored bytes, nothing."""
    validation = scenario.validation if isinstance(scenario, SessionStream) else ()
    for session in scenario:
        held = validation[session.id] if validation else ()
        own = f"session-{session.id}"
        parts: tuple[tuple[Part, list[ImageDataset]], ...] = (
            ("train", [session.train]),
            ("test", [test.data for test in session.tests if test.name == own]),
            ("validation", [test.data for test in held if test.name == own]),
        )
        found: list[tuple[Part, ImageDataset]] = [(part, images) for part, sets in parts for images in sets]
        for part, images in found:
            if isinstance(images, ImageSet):
                for position, content in enumerate(content_hashes(images)):
                    name = session.class_names[int(images.labels[position])]
                    yield PictureRecord(content, images.describe(position), name, part, session.id)
