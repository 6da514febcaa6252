"""Streams of noise in memory, for whole runs of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from hf_cl.contracts import Session, Test


class Pictures:
    """`count` images of noise, in turn of the classes `labels`."""

    def __init__(self, count: int, labels: range, side: int) -> None:
        self.labels, self.indices, self.side = np.arange(count) % len(labels) + labels.start, np.arange(count), side

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        pixels = np.random.default_rng(position).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return {"image": Image.fromarray(pixels), "label": int(self.labels[position]), "index": position}


class Stream:
    """`sessions` sessions of `new` classes, with so many images to train and to test on in each."""

    def __init__(self, sessions: int, new: int, train: int, test: int, side: int = 224) -> None:
        self.sessions, self.new, self.train, self.test, self.side = sessions, new, train, test, side
        self.class_names = tuple(f"c{i}" for i in range(sessions * new))
        self.protocol: dict[str, Any] = {
            "name": "class_incremental",
            "dataset": "noise",
            "num_base_classes": new,
            "classes_per_session": new,
            "shots": None,
            "class_order": "natural",
            "class_order_seed": 0,
            "index_list": None,
            "test_split": "test",
            "validation_fraction": 0.0,
        }

    def __iter__(self) -> Iterator[Session]:
        tests: list[Pictures] = []
        for number in range(self.sessions):
            seen = self.class_names[: (number + 1) * self.new]
            classes = range(number * self.new, len(seen))
            tests.append(Pictures(self.test, classes, self.side))
            named = tuple(Test(f"session-{i}", data, tuple(range(len(seen)))) for i, data in enumerate(tests))
            yield Session(number, seen, seen[classes.start :], Pictures(self.train, classes, self.side), named)
