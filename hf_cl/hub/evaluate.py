"""A loaded adapter on a data set: accuracy, and accuracy per class.

Shapes: B batch, C classes of the adapter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from hf_cl.contracts import ImageDataset
from hf_cl.hub.classifier import Classifier

NAMED = 8
"""Names that an error lists; the rest is counted."""


@dataclass(frozen=True)
class Evaluation:
    """What an adapter gets right; all of its classes compete, whichever the data set has."""

    images: int
    accuracy: float
    per_class: dict[str, tuple[int, int]]
    """Class name -> right images, images; of the data set's classes that have images, in its order."""
    absent: list[str]
    """The adapter's classes that the data set has no image of."""


def evaluate(classifier: Classifier, data: ImageDataset, class_names: Sequence[str], *, batch_size: int = 64) -> Evaluation:
    """Name every image of a data set.

    Args:
        classifier: from `hf_cl.load`.
        data: labels are positions in `class_names`.
        class_names: the data set's; each must be one of the adapter's, exactly as it is written there.
        batch_size: images per forward.

    Raises ValueError where a class of the data set is none of the adapter's, naming those classes and the nearest of the adapter's, or
    where there is no image.
    """
    if not len(data):
        raise ValueError("There is no image to evaluate on.")
    columns = match_names(class_names, classifier.class_names)
    total, right = [0] * len(class_names), [0] * len(class_names)
    for images, labels in _batches(data, batch_size):
        with torch.no_grad():
            predicted = classifier.logits(images).argmax(-1).tolist()  # [B, C] -> [B]
        for label, column in zip(labels, predicted, strict=True):
            total[label] += 1
            right[label] += column == columns[label]
    seen = {name: (right[i], total[i]) for i, name in enumerate(class_names) if total[i]}
    absent = [name for name in classifier.class_names if name not in seen]
    return Evaluation(len(data), sum(right) / len(data), seen, absent)


def match_names(wanted: Sequence[str], known: Sequence[str]) -> list[int]:
    """Position of each wanted name among the known ones.

    Raises ValueError listing the names that are not known, each with the nearest that is.
    """
    position = {name: i for i, name in enumerate(known)}
    strangers = [name for name in wanted if name not in position]
    if strangers:
        shown = ", ".join(_with_nearest(name, known) for name in strangers[:NAMED])
        more = f" and {len(strangers) - NAMED} more" if len(strangers) > NAMED else ""
        raise ValueError(
            f"{len(strangers)} of {len(wanted)} classes of the data set are not among the adapter's {len(known)}: {shown}{more}. "
            "Rename them as the adapter has them, or leave their images out."
        )
    return [position[name] for name in wanted]


def _with_nearest(name: str, known: Sequence[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.75)
    return f"{name!r}" + (f" (the adapter has {by_lower[near[0]]!r})" if near else "")


def _batches(data: ImageDataset, size: int) -> Iterator[tuple[list[Image.Image], list[int]]]:
    for start in range(0, len(data), size):
        items = [data[position] for position in range(start, min(start + size, len(data)))]
        yield [item["image"] for item in items], [item["label"] for item in items]
