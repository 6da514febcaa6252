"""How many dimensions a head needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.heads import NestedDropoutHead
from hf_cl.heads.kept_dimensions import curves

ENOUGH = 0.9
"""A head has enough dimensions when it has this share of its full accuracy."""


class KeptDimensions(Probe):
    """Accuracy of a nested-dropout head on its first 1, 2, 4, ... dimensions, over the test images of all sessions so far.

    By the rows that train, before a fit. `report` has, after each session: `kept`, what the head keeps; `enough`, the fewest dimensions
    with nine tenths of the accuracy of all; `accuracy`, by the number of dimensions.

    `begin_session` raises ValueError for another head.
    """

    name = "kept_dimensions"

    def __init__(self) -> None:
        self._found: dict[str, list[Any]] = {"kept": [], "enough": [], "accuracy": []}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, NestedDropoutHead):
            raise ValueError(
                f"The probe kept_dimensions needs a head of type nested_dropout; this run has a {type(trainer.head).__name__}."
            )

    def end_session(self, trainer: Trainer, session: Session) -> None:
        head = trainer.head
        assert isinstance(head, NestedDropoutHead)
        tests = [trainer.features_of(test.data) for test in session.tests]
        with torch.no_grad():
            ordered = head.ordered(torch.cat([test.features for test in tests]))
        accuracy = curves(head.inner, ordered, torch.cat([test.labels for test in tests]))[1]  # [D]
        counts = [2**power for power in range((head.width - 1).bit_length())] + [head.width]
        self._found["kept"].append(int(head.size))
        self._found["enough"].append(int((accuracy >= ENOUGH * accuracy[-1]).nonzero()[0]) + 1)
        self._found["accuracy"].append({str(count): float(accuracy[count - 1]) for count in counts})

    def report(self) -> dict[str, Any]:
        return dict(self._found)

    def state_dict(self) -> dict[str, Any]:
        return {"found": self._found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._found = {name: list(values) for name, values in state["found"].items()}
