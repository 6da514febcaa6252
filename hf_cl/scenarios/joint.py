"""All sessions of a stream as one: what training on everything at once would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_cl.contracts import ImageDataset, Scenario, Session, Test
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.stream import SessionStream


def joint(scenario: Scenario) -> SessionStream:
    """One session that teaches all classes of `scenario` on the images of all its sessions, and is tested on those of the last one.

    The images are the same: shots stay shots.
    """
    sessions = [*scenario]
    last = sessions[-1]
    validation = [session.validation for session in sessions if session.validation is not None]
    tests = joined([test.data for test in last.tests])
    session = Session(
        id=0,
        class_names=last.class_names,
        new_class_names=last.class_names,
        train=joined([session.train for session in sessions]),
        tests=(Test("session-0", tests, tuple(range(len(last.class_names)))),),
        validation=joined(validation) if validation else None,
    )
    made = {**scenario.protocol, "num_base_classes": len(last.class_names), "classes_per_session": None}
    details = {**dict(made.get("details") or {}), "joint": True}
    return SessionStream((session,), tuple(scenario.class_names), made | {"details": details}, ())


def joined(parts: Sequence[ImageDataset]) -> ImageDataset:
    """The images of all parts, one after the other."""
    sets = [part for part in parts if isinstance(part, ImageSet)]
    if len(sets) == len(parts) and len({id(part.store) for part in sets}) == 1:
        labels, indices = (np.concatenate([getattr(part, name) for part in sets]) for name in ("labels", "indices"))
        return ImageSet(sets[0].store, labels, indices)
    return _Joined(parts)


class _Joined:
    """Data sets of any kind. Fulfils `hf_cl.contracts.ImageDataset`; sample ids are counted anew, since parts may have the same ones."""

    def __init__(self, parts: Sequence[ImageDataset]) -> None:
        self.parts = list(parts)
        self.labels: Any = np.concatenate([np.asarray(part.labels, dtype=np.int64) for part in parts])  # [n]
        self.indices: Any = np.arange(len(self.labels))
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return {**self.parts[part][position - int(self._starts[part])], "index": int(self.indices[position])}
