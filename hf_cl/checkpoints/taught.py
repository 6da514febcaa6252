"""What a run has taught, kept in its checkpoints: a run that is resumed goes on with the same classes and images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_cl.contracts import Session
from hf_cl.results.display import display_name


def taught(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """Of each session its new classes, its training images as `[class, images]`, and its test images with a checksum of their sizes.

    Plain values as JSON gives them back, and no more of them than the session has classes of its own: a run has many sessions.
    """
    return [_taught(session) for session in sessions]


def _taught(session: Session) -> dict[str, Any]:
    classes, images = np.unique(np.asarray(session.train.labels, dtype=np.int64), return_counts=True)
    sizes = np.array([len(test.data) for test in session.tests], dtype=np.int64)
    return {
        "class_names": [*session.new_class_names],
        "train": [list(pair) for pair in zip(classes.tolist(), images.tolist(), strict=True)],
        "test_images": int(sizes.sum()),
        "tests": zlib.crc32(sizes.tobytes()),
    }


_MAY_CHANGE = frozenset({"dataset", "class_order", "classes_per_session", "left_out_images"})
"""A folder or file may have moved; what came of it, the classes and images, is looked at itself."""


def check_protocol(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where a scenario's protocol is not that of the checkpoint."""
    for key in before.keys() | now.keys():
        if key not in _MAY_CHANGE and before.get(key) != now.get(key):
            raise ValueError(
                f"The run's protocol had {key} = {before.get(key)!r}, the scenario now has {now.get(key)!r}: resume with the same, or "
                "choose another output_dir."
            )


def check_taught(before: Sequence[Mapping[str, Any]], sessions: Sequence[Session], ended: int) -> None:
    """Raise ValueError where the `sessions` of today do not begin with those of a checkpoint.

    Args:
        before: `taught` of the sessions that had begun.
        sessions: what a resumed run would go on with.
        ended: how many had ended; their training images may be gone.
    """
    if len(sessions) < len(before):
        raise ValueError(
            f"The run has begun {len(before)} sessions, and these data make {len(sessions)}; a taught class cannot be taken out."
        )
    for number, (then, now) in enumerate(zip(before, taught(sessions[: len(before)]), strict=True)):
        if then["class_names"] != now["class_names"]:
            raise ValueError(
                f"Session {number} of the run taught {_names(then['class_names'])}; it would teach {_names(now['class_names'])} now. "
                "Classes that were taught keep their places: list them in a --class_order file as they came, with new ones behind them."
            )
        if number < ended:
            _check_counts(number, then, now, all(count in then["train"] for count in now["train"]))


def check_current(before: Mapping[str, Any], session: Session) -> None:
    """Raise ValueError where the session in which a run goes on has other images than it had: their order depends on their number."""
    (now,) = taught([session])
    _check_counts(session.id, before, now, now["train"] == before["train"])


def _check_counts(number: int, then: Mapping[str, Any], now: Mapping[str, Any], same_training: bool) -> None:
    if (then["tests"], then["test_images"]) != (now["tests"], now["test_images"]) or not same_training:
        had, has = (f"{sum(n for _, n in f['train'])} training and {f['test_images']} test images" for f in (then, now))
        raise ValueError(
            f"Session {number} of the run had {had}, and would have {has}. Images of classes that were taught stay as they are (after its "
            "session, all training images of a class may be gone): otherwise accuracies before and after do not compare."
        )


def _names(names: Sequence[str]) -> str:
    return display_name(", ".join(names), 200)
