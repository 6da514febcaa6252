"""Sessions whose images come in a fixed order, once: what online streams share.

Letters: n images of a session.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_cl.contracts import Session, Test
from hf_cl.scenarios.image_set import ImageSet


def ordered_sessions(
    class_names: Sequence[str], train: Sequence[ImageSet], test: ImageSet
) -> tuple[NDArray[np.int64], tuple[Session, ...]]:
    """The order in which classes first appear, as labels of the data set, [C], and the sessions.

    Args:
        class_names: in label order.
        train: of each session its images, in the order in which they come.
        test: the data set's test images; a session is tested on those of the classes that it brings.
    """
    order: list[int] = []
    brought: list[int] = []  # classes of each session
    for images in train:
        _, first = np.unique(images.labels, return_index=True)
        new = [label for label in images.labels[np.sort(first)].tolist() if label not in order]
        order += new
        brought.append(len(new))
    places = np.full(len(class_names), -1, dtype=np.int64)
    places[order] = np.arange(len(order))
    names = tuple(class_names[label] for label in order)
    sessions: list[Session] = []
    tests: list[ImageSet] = []
    seen = 0
    for number, (images, count) in enumerate(zip(train, brought, strict=True)):
        ordered = images.relabel(places)
        exposed = np.maximum(np.maximum.accumulate(ordered.labels) + 1, seen)  # [n]
        tests.append(test.of_classes(order[seen : seen + count]).relabel(places))
        seen += count
        candidates = tuple(range(seen))
        sessions.append(
            Session(
                id=number,
                class_names=names[:seen],
                new_class_names=names[seen - count : seen],
                train=ordered,
                tests=tuple(Test(f"session-{j}", part, candidates) for j, part in enumerate(tests)),
                exposed=exposed.tolist(),
            )
        )
    return np.asarray(order, dtype=np.int64), tuple(sessions)
