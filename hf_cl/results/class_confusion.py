"""`confusion.json` of a run folder: which class was taken for which in the latest evaluation, image by image counted.

Apart from results.json, whose readers want numbers of sessions: of 1,000 classes there are tens of thousands of pairs.

Shapes: C classes seen, k pairs that occur.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_cl.metrics import session_confusion
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.results import Results

FILE = "confusion.json"


@dataclass(frozen=True)
class ClassConfusion:
    """Counts of one evaluation."""

    pairs: NDArray[np.int64]
    """[k, 3] true class, named class (in order of arrival), images."""
    classes: int

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """[C] test images of each class."""
        found = np.zeros(self.classes, np.int64)
        np.add.at(found, self.pairs[:, 0], self.pairs[:, 2])
        return found


def write_confusion(folder: Path, pairs: NDArray[np.int64]) -> None:
    """Write the file: whole or not at all."""
    write_atomically(folder / FILE, json.dumps({"pairs": pairs.tolist()}, separators=(",", ":")) + "\n")


def read_confusion(folder: Path, results: Results) -> ClassConfusion | None:
    """The counts that belong to `results`; None where the run has none of that evaluation.

    Raises ValueError, naming the file, where it holds something else than hf_cl writes.
    """
    path, classes = folder / FILE, len(results.class_names)
    if results.session_confusion is None or not path.is_file():
        return None
    try:
        pairs = np.array(json.loads(path.read_bytes())["pairs"], np.int64).reshape(-1, 3)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: expected pairs of [true class, named class, images]: {error}.") from error
    if len(pairs) and (pairs.min() < 0 or pairs[:, :2].max() >= classes):
        return None
    return ClassConfusion(pairs, classes) if _belong(pairs, results) else None


def _belong(pairs: NDArray[np.int64], results: Results) -> bool:
    """Whether they add up to what results.json has; it holds no table where one session of several brought all classes."""
    if not results.session_confusion:
        return int(pairs[:, 2].sum()) == sum(results.test_counts)
    return session_confusion(pairs, [len(session.new_class_names) for session in results.sessions]) == results.session_confusion
