"""A few test images with what the model says, for the report: picked from the logits that evaluation has anyway.

They are pictures of the user's own data, so they stand in a file of their own, `examples.json`, and not in results.json.

Shapes: B images, C classes seen so far.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from hf_cl.metrics import session_of_class
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.result_records import STRICT

if TYPE_CHECKING:
    from hf_cl.contracts import Test

FILE = "examples.json"
FEW, MANY = 6, 24
"""Pictures of each kind: after a session that others follow, and at the end of a run. Half of them are drawn whatever the model says of
them, spread evenly over the tests; the others are the wrong names given with the most confidence."""
NEAREST = 3
"""Classes named for each picture: those that the model finds most probable."""
SIDE = 224
"""Longer side in pixels of a stored picture; smaller images stay as they are."""


@dataclass(frozen=True)
class Example:
    """One test image, after the last session."""

    __pydantic_config__: ClassVar = STRICT
    true: str
    predicted: str
    confidence: float
    """The predicted class's probability among the classes that compete, as the head has it."""
    session: int | None
    """That brought the true class; None for a class that no session teaches."""
    drawn: bool
    """Whether it was taken whatever the model says; else it is one of the most confident mistakes."""
    image: str
    """A data URL of PNG or JPEG."""
    nearest: list[tuple[str, float]] = field(default_factory=list)
    """The most probable classes with their probabilities, the predicted one first; empty in a file of an earlier version."""
    domain: str | None = None
    """Of the image, where the data name domains."""


class Pick(NamedTuple):
    """One test image and what the model says of it; whole numbers, so that a tensor carries it from process to process."""

    test: int
    position: int
    """In the test's data set."""
    true: int
    predicted: int
    millionths: int
    """The probability of the predicted class, times 1,000,000."""
    second: int
    """The class that comes next, and its probability; -1 where no other class competes."""
    second_millionths: int
    third: int
    third_millionths: int


class ExamplePicker:
    """Picks while a session is evaluated, from this process's share of the images.

    Args:
        sizes: images of each test, over all processes.
        count: pictures of each kind, drawn ones and mistakes.
    """

    def __init__(self, sizes: Sequence[int], count: int = FEW) -> None:
        self.count, self.wanted = count, drawn_positions(sizes, count)
        self.drawn: list[Pick] = []
        self.mistakes: list[Pick] = []

    def add(
        self,
        tests: int | NDArray[np.int64],
        scores: NDArray[np.floating],
        labels: NDArray[np.int64],
        positions: NDArray[np.int64] | Sequence[int],
        nearest: NDArray[np.int64],
        probabilities: NDArray[np.floating],
    ) -> None:
        """Look at a batch: test [B] or one for all, scores [B, C] (-inf where a class does not compete), labels [B], positions [B] in the
        test's data set, the most probable classes [B, n <= NEAREST] and their probabilities [B, n], the largest first."""
        predicted = scores.argmax(axis=1)  # [B]
        places = list(zip(np.broadcast_to(tests, labels.shape).tolist(), np.asarray(positions).tolist(), strict=True))
        named, shares = nearest.tolist(), np.rint(1e6 * probabilities.astype(float)).astype(np.int64).tolist()  # [B, n]

        def pick(i: int) -> Pick:
            said = int(predicted[i])
            others = [place for place in zip(named[i], shares[i], strict=True) if place[0] != said and place[1]]
            second, third = [*others, (-1, 0), (-1, 0)][:2]
            return Pick(*places[i], int(labels[i]), said, shares[i][0], *second, *third)

        self.drawn += [pick(i) for i, place in enumerate(places) if place in self.wanted]
        self.mistakes = most_confident([*self.mistakes, *map(pick, np.flatnonzero(predicted != labels).tolist())], self.count)

    def rows(self) -> list[list[int]]:
        """[2 * count, 10] on every process: 1 for drawn or 0, then the pick; rows of -1 where there is none."""
        rows = [[1, *pick] for pick in self.drawn] + [[0, *pick] for pick in self.mistakes]
        return rows + [[-1] * (1 + len(Pick._fields))] * (2 * self.count - len(rows))


def drawn_positions(sizes: Sequence[int], count: int) -> set[tuple[int, int]]:
    """(test, position) of the drawn images, evenly spaced over all test images: the same on any number of processes."""
    bounds = np.cumsum([0, *sizes])
    total = int(bounds[-1])
    drawn = np.array([int((i + 0.5) * total / count) for i in range(count)]) if total else np.empty(0, int)
    tests = np.searchsorted(bounds, drawn, side="right") - 1
    return set(zip(tests.tolist(), (drawn - bounds[tests]).tolist(), strict=True))


def most_confident(mistakes: Sequence[Pick], count: int) -> list[Pick]:
    """The most confident mistakes, one per pair of classes, so that one bad pair does not fill the page."""
    best: dict[tuple[int, int], Pick] = {}
    for pick in sorted(mistakes, key=lambda pick: (-pick.millionths, pick.test, pick.position)):
        best.setdefault((pick.true, pick.predicted), pick)
    return list(best.values())[:count]


def write_examples(
    folder: Path,
    tests: Sequence[Test],
    class_names: Sequence[str],
    classes_per_session: Sequence[int],
    rows: Sequence[Sequence[int]],
    count: int = FEW,
    domain_of: Callable[[Pick], str | None] = lambda pick: None,
) -> None:
    """Write `examples.json` from the rows of all processes' pickers; decodes the pictures it takes.

    Args:
        folder: the run folder.
        tests: of the session.
        class_names: by position; those that no session teaches come last.
        classes_per_session: new classes of each session so far.
        rows: `ExamplePicker.rows` of all processes.
        count: as their pickers have it.
        domain_of: the name of an image's domain, where the data know it.
    """
    drawn = sorted(Pick(*pick) for kind, *pick in rows if kind == 1)
    mistakes = most_confident([Pick(*pick) for kind, *pick in rows if kind == 0], count)
    arrived = dict(enumerate(session_of_class(classes_per_session).tolist()))
    examples = [
        Example(
            true=class_names[pick.true],
            predicted=class_names[pick.predicted],
            confidence=pick.millionths / 1e6,
            session=arrived.get(pick.true),
            drawn=pick in drawn,
            image=data_url(tests[pick.test].data[pick.position]["image"]),
            nearest=_nearest(pick, class_names),
            domain=domain_of(pick),
        )
        for pick in [*drawn, *(pick for pick in mistakes if pick not in drawn)]
    ]
    write_atomically(folder / FILE, json.dumps([asdict(example) for example in examples], indent=1, ensure_ascii=False) + "\n")


def _nearest(pick: Pick, class_names: Sequence[str]) -> list[tuple[str, float]]:
    places = [(pick.predicted, pick.millionths), (pick.second, pick.second_millionths), (pick.third, pick.third_millionths)]
    return [(class_names[position], millionths / 1e6) for position, millionths in places if position >= 0]


def read_examples(folder: Path) -> list[Example]:
    """The examples of a run; none where it has no file of them.

    Raises ValueError, naming the file, where its content is something else.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        examples = TypeAdapter(list[Example]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']} ({'.'.join(map(str, error.errors()[0]['loc']))}).") from error
    strange = [example for example in examples if not example.image.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))]
    if strange:
        raise ValueError(f"{path}: an image is no PNG or JPEG data URL.")
    return examples


def data_url(image: Image.Image, side: int = SIDE) -> str:
    """A picture for a page: PNG where it is small, else JPEG with a longer side of `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    kind = "png" if max(image.size) <= side // 2 else "jpeg"
    file = BytesIO()
    small.save(file, format=kind, quality=80)  # PNG knows no quality and ignores it
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
