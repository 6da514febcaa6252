"""Pictures that a user wants left out: the file that names them, and a stream without them.

The file has a line for each picture: its name as messages have it (a path below the data set's folder, or split and row), and behind a tab
whatever a reader should know. Lines that begin with # are remarks. A name that would be read as something else stands in quotes, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_cl.contracts import ImageDataset, Session, Test
from hf_cl.errors import DataError, brief, first_ten, near_path
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.stream import SessionStream

logger = logging.getLogger(__name__)


def read_excluded(path: Path) -> frozenset[str]:
    """The names in a file; none where it has remarks alone. Raises DataError for a file that is not there, or has a line that is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"exclude: {brief(str(path))} cannot be read: {error.strerror}.{near_path(path)}") from error
    names = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name = line.split("\t")[0]
        if line.startswith('"'):
            try:
                name = json.loads(name)
            except ValueError as error:
                raise DataError(f"exclude: {brief(str(path))}, line {number}: no JSON string: {brief(name)}.") from error
        names.add(name)
    return frozenset(names)


def line_of(name: str, why: str) -> str:
    """A picture's line, with its end."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return f"{name if plain else json.dumps(name)}\t{why}\n"


def without(stream: SessionStream, names: Collection[str], path: str) -> SessionStream:
    """The stream without some pictures, whatever side they are on; splits and draws stay what they are. Its protocol says how many are left
    out, and by a hash which, so that runs on other pictures are not compared with it.

    Without names the stream as it is.

    Raises DataError where the stream has none of them, where a class is left without a training picture, and where a session is left
    without a test picture of its own.
    """
    if not names:
        return stream
    kept: dict[int, tuple[ImageDataset, ImageDataset]] = {}  # by id: tests of earlier sessions stay one object in all later ones
    found: set[str] = set()

    def cut(data: ImageDataset) -> ImageDataset:
        if id(data) not in kept:
            kept[id(data)] = data, _without(data, names, found)
        return kept[id(data)][1]

    def cut_tests(tests: Sequence[Test]) -> tuple[Test, ...]:
        return tuple(replace(test, data=cut(test.data)) for test in tests)

    sessions = tuple(_session(session, cut(session.train), cut_tests(session.tests), names) for session in stream.sessions)
    sessions = tuple(
        session if session.validation is None else replace(session, validation=cut(session.validation)) for session in sessions
    )
    validation = tuple(cut_tests(tests) for tests in stream.validation)
    _check(stream.sessions, sessions, found, names, path)
    digest = hashlib.sha256("\n".join(sorted(found)).encode(errors="surrogateescape")).hexdigest()
    details = {**dict(stream.protocol.get("details") or {}), "excluded": {"images": len(found), "sha256": digest}}
    return replace(stream, sessions=sessions, validation=validation, protocol={**stream.protocol, "details": details})


def _session(session: Session, train: ImageDataset, tests: tuple[Test, ...], names: Collection[str]) -> Session:
    if session.exposed is None or not isinstance(session.train, ImageSet):
        return replace(session, train=train, tests=tests)
    stay = _stay(session.train, names)
    return replace(session, train=train, tests=tests, exposed=[come for come, stays in zip(session.exposed, stay, strict=True) if stays])


def _without(data: ImageDataset, names: Collection[str], found: set[str]) -> ImageDataset:
    if not isinstance(data, ImageSet):
        return data
    stay = _stay(data, names)
    found.update(data.describe(position) for position in np.flatnonzero(~stay).tolist())
    return data if stay.all() else data.subset(stay)


def _stay(images: ImageSet, names: Collection[str]) -> np.ndarray:
    return np.array([images.describe(position) not in names for position in range(len(images))], dtype=bool)


def _check(before: Iterable[Session], after: Iterable[Session], found: Collection[str], names: Collection[str], path: str) -> None:
    if not found:
        raise DataError(f"exclude: no session has any of the {len(names)} pictures that {brief(path)} names; is it of another data set?")
    if len(found) < len(names):
        missing = sorted(set(names) - set(found))
        logger.warning("exclude: no session has %d of the %d pictures: %s.", len(missing), len(names), first_ten(missing))
    for old, new in zip(before, after, strict=True):
        empty = sorted({*map(int, old.train.labels)} - {*map(int, new.train.labels)})
        if empty:
            classes = first_ten(repr(old.class_names[label]) for label in empty)
            raise DataError(f"exclude: session {old.id} is left without a training picture of {classes}.")
        gone = [test.name for test, rest in zip(old.tests, new.tests, strict=True) if len(test.data) and not len(rest.data)]
        if gone:
            raise DataError(f"exclude: the test {gone[0]} is left without a picture.")
