"""What a run has taught, kept in its checkpoints: a run that is resumed goes on with the same classes and images."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_cl.checkpoints.store import CheckpointStore
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
        "own_test_images": int(sizes[-1]) if len(sizes) else 0,
        "test_images": int(sizes.sum()),
        "tests": zlib.crc32(sizes.tobytes()),
    }


def begun_classes(folder: Path) -> list[list[str]]:
    """The new classes of each session that had begun, by the newest whole checkpoint in `folder`; none where there is none."""
    store = CheckpointStore(folder)
    steps = store.steps()
    return [json.loads(text)["class_names"] for text in store.read(steps[0], "taught") or ()] if steps else []


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


def check_taught(before: Sequence[Mapping[str, Any]], sessions: Sequence[Session], ended: int, *, strict: bool = False) -> list[str]:
    """What has changed in the number of images of sessions that had ended, a sentence for each.

    Args:
        before: `taught` of the sessions that had begun.
        sessions: what a resumed run would go on with.
        ended: how many had ended; they are not trained again, so their images may have changed.
        strict: allow no change but that all training images of a class are gone.

    Raises ValueError where the `sessions` of today do not begin with those of a checkpoint, where no image is left to test one on, and,
    if `strict`, for a change.
    """
    changes: list[str] = []
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
        if number < ended and strict:
            _check_counts(number, then, now, all(count in then["train"] for count in now["train"]), _STRICT)
        elif number < ended:
            changes += _changes(number, then, now)
    return changes


def _changes(number: int, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if then["class_names"] and then["own_test_images"] and not now["own_test_images"]:
        raise ValueError(
            f"Session {number} of the run was tested on {then['own_test_images']} images, and none is left: its column needs at least one. "
            "Put some of them back."
        )
    trained = [sum(images for _, images in found["train"]) for found in (then, now)]
    changes = [f"{there} test images then, {here} now"] if (there := then["own_test_images"]) != (here := now["own_test_images"]) else []
    if trained[0] != trained[1] and trained[1]:
        changes.append(f"{trained[0]} training images then, {trained[1]} now (a session that has ended is not trained again)")
    return [f"Session {number} had {' and '.join(changes)}."] if changes else []


def check_current(before: Mapping[str, Any], session: Session) -> None:
    """Raise ValueError where the session in which a run goes on has other images than it had: their order depends on their number."""
    (now,) = taught([session])
    _check_counts(session.id, before, now, now["train"] == before["train"], _BEGUN)


_STRICT = "--strict_data wants them as they were (all training images of a class may be gone)."
_BEGUN = (
    "Inside a session its images stay as they are, since their order depends on their number: put them back, let the session end, and "
    "change them then."
)


def _check_counts(number: int, then: Mapping[str, Any], now: Mapping[str, Any], same_training: bool, why: str) -> None:
    if (then["tests"], then["test_images"]) != (now["tests"], now["test_images"]) or not same_training:
        had, has = (f"{sum(n for _, n in f['train'])} training and {f['test_images']} test images" for f in (then, now))
        raise ValueError(f"Session {number} of the run had {had}, and would have {has}. {why}")


def _names(names: Sequence[str]) -> str:
    return display_name(", ".join(names), 200)
