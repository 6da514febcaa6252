"""What the page shows of each class: pictures, the session that brought it, and how often it is recognised."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from hf_cl.errors import DataError
from hf_cl.pictures import open_image
from hf_cl.results.display import display_name
from hf_cl.results.examples import FILE as EXAMPLES
from hf_cl.results.examples import read_examples
from hf_cl.results.picture_record import read_pictures
from hf_cl.results.saved_run import Run

SHOWN = 3
"""Pictures of a class."""
SIDE = 64
"""Longer side of a picture in pixels."""
WITH_PICTURES = 200
"""Classes that get pictures; the page of a thousand classes would be a megabyte of them."""


@dataclass
class ClassCard:
    """One class."""

    name: str
    session: int
    accuracy: float | None
    """Of its test images among all classes, after the last session; None without test images."""
    pictures: list[str] = field(default_factory=list)
    """Data URLs."""


def class_cards(run: Run) -> list[ClassCard]:
    """The classes of a run, in order of arrival."""
    accuracies: Mapping[str, float | None] = run.results.per_class_accuracy or {}
    cards = [ClassCard(name, session.id, accuracies.get(name)) for session in run.results.sessions for name in session.new_class_names]
    pictures = _pictures(run, {card.name for card in cards[:WITH_PICTURES]})
    for card in cards:
        card.pictures = pictures.get(card.name, [])
    return cards


def _pictures(run: Run, names: set[str]) -> Mapping[str, list[str]]:
    """Training pictures where the data set is a folder that is still there, else the test pictures that the run kept for its report."""
    found: dict[str, list[str]] = defaultdict(list)
    root = Path(str(run.settings.get("dataset", "")))
    for picture in read_pictures(run.folder) if root.is_dir() else ():
        path = root / picture.name
        if picture.class_name in names and picture.part == "train" and len(found[picture.class_name]) < SHOWN and path.is_file():
            try:
                found[picture.class_name].append(small(open_image(path)))
            except (DataError, OSError):  # damaged since the run
                continue
    if not any(found.values()) and (run.folder / EXAMPLES).is_file():
        for example in read_examples(run.folder):
            if example.true in names and len(found[example.true]) < SHOWN:
                found[example.true].append(example.image)
    return found


def small(image: Image.Image, side: int = SIDE) -> str:
    """A picture as a data URL whose longer side is at most `side` pixels."""
    shrunk = image.copy()
    shrunk.thumbnail((side, side))
    buffer = BytesIO()
    shrunk.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def table_of(cards: Sequence[ClassCard]) -> str:
    """The classes as a table."""
    rows = []
    for card in cards:
        name = escape(display_name(card.name))
        style = f"max-height: {SIDE}px; display: inline-block"
        images = "".join(f'<img src="{escape(url)}" alt="{name}" style="{style}">' for url in card.pictures)
        accuracy = "–" if card.accuracy is None else f"{100 * card.accuracy:.1f} %"
        rows.append(f'<tr><th scope="row">{name}</th><td>{card.session}</td><td>{accuracy}</td><td>{images}</td></tr>')
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Class", "Session", "Recognised", "Pictures"))
    return f'<table id="class-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def changes(run: Run, before: int) -> tuple[list[tuple[str, float | None, float | None]], list[ClassCard]]:
    """What sessions from number `before` on changed: (old class, accuracy before, accuracy now), and the cards of new classes."""
    matrix = run.results.class_accuracy_matrix or []
    names = [name for session in run.results.sessions for name in session.new_class_names]
    then, now = (matrix[before - 1], matrix[-1]) if 0 < before <= len(matrix) else ([], [])
    old = [(name, was, now[i]) for i, (name, was) in enumerate(zip(names, then, strict=False))]
    cards = [ClassCard(name, session.id, None) for session in run.results.sessions[before:] for name in session.new_class_names]
    for card in cards:
        card.accuracy = now[names.index(card.name)] if now else None
    return old, cards
