"""`pictures.jsonl` of a run folder: which pictures were trained on, and which were kept for testing, by content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from hf_cl.results.atomic_write import write_atomically

FILE = "pictures.jsonl"
Part = Literal["train", "test", "validation"]


@dataclass(frozen=True)
class PictureRecord:
    """One picture of a run."""

    content: str
    """Hash of its bytes."""
    name: str
    """File name, or split and row."""
    class_name: str
    part: Part
    session: int
    """The session that brought its class, or trained on it."""


def write_pictures(folder: Path, pictures: Iterable[PictureRecord]) -> None:
    """Write the record of a run. What it knew before stays in it, also where the picture is gone: it may come back."""
    new = list(pictures)
    known = {(picture.content, picture.part, picture.session) for picture in new}
    gone = [old for old in read_pictures(folder) if (old.content, old.part, old.session) not in known]
    lines = (json.dumps(asdict(picture), ensure_ascii=False) for picture in [*gone, *new])
    write_atomically(folder / FILE, "".join(f"{line}\n" for line in lines))


def read_pictures(folder: Path) -> Iterator[PictureRecord]:
    """The record of a run; nothing where it keeps none. Raises ValueError for a file that is not as hf_cl writes it."""
    path = folder / FILE
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield PictureRecord(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: not a picture of a run: {error}.") from error


def known_to(adapter: Path) -> list[PictureRecord]:
    """The pictures that an adapter's run knew up to its session, as those of session 0 of a run that starts from it; none where the adapter
    lies in no run folder."""
    session = adapter.resolve().name.removeprefix("session-")
    if adapter.resolve().parent.name != "adapters" or not session.isdecimal():
        return []
    found = read_pictures(adapter.resolve().parents[1])
    return [replace(picture, session=0) for picture in found if picture.session <= int(session)]


def differences(
    before: Iterable[PictureRecord], now: Iterable[PictureRecord], sessions: int
) -> tuple[list[PictureRecord], list[PictureRecord]]:
    """(pictures that are gone, those that are new) of the first `sessions`: the same picture in the same part and class is no difference,
    whatever it is called."""
    then, here = ([picture for picture in pictures if picture.session < sessions] for pictures in (before, now))
    keys_then, keys_here = ({(p.content, p.class_name, p.part) for p in pictures} for pictures in (then, here))
    gone = [picture for picture in then if (picture.content, picture.class_name, picture.part) not in keys_here]
    return gone, [picture for picture in here if (picture.content, picture.class_name, picture.part) not in keys_then]


def trained_on(folder: Path, session: int | None) -> frozenset[str]:
    """Contents of the pictures that were trained on up to a session (None: the last)."""
    return frozenset(
        picture.content for picture in read_pictures(folder) if picture.part == "train" and (session is None or picture.session <= session)
    )
