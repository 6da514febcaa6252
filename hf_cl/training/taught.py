"""What a run has taught, kept in its checkpoints: a run that is resumed goes on with the same classes and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_cl.contracts import Session
from hf_cl.training.display import display_name


def taught(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """Of each session its new classes, and how many images it trains and tests on."""
    return [
        {"class_names": [*session.new_class_names], "train": len(session.train), "test": [len(test.data) for test in session.tests]}
        for session in sessions
    ]


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
    for number, (then, now) in enumerate(zip(before, taught(sessions), strict=False)):
        if then["class_names"] != now["class_names"]:
            raise ValueError(
                f"Session {number} of the run taught {_names(then['class_names'])}; it would teach {_names(now['class_names'])} now. "
                "Classes that were taught keep their places: list them in a --class_order file as they came, with new ones behind them."
            )
        if then["test"] != now["test"] or (then["train"] != now["train"] and not (number < ended and now["train"] == 0)):
            raise ValueError(
                f"Session {number} of the run had {then['train']} training and {sum(then['test'])} test images; now {now['train']} and "
                f"{sum(now['test'])}. Images of classes that were taught stay as they are (training images of ended sessions may all be "
                "gone): otherwise accuracies before and after do not compare."
            )


def _names(names: Sequence[str]) -> str:
    return display_name(", ".join(names), 200)
