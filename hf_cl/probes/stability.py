"""Continual evaluation: accuracy on every session begun so far, between the ends of sessions (De Lange et al. 2023, arXiv 2205.13452).

Shapes: n images of a test set, D feature width, C classes seen so far.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from hf_cl.contracts import ImageDataset, Probe, Session, Trainer
from hf_cl.heads import PrototypeHead
from hf_cl.metrics import StabilityTraces
from hf_cl.probes.subset import Subset

logger = logging.getLogger(__name__)

DRAW_SEED = 0


class StabilityProbe(Probe):
    """Records the traces from which `hf_cl.metrics` computes min-ACC, WC-ACC, WF, WP and LCA; they go to results.json as `continual`.

    Evaluates after every `every`-th optimizer step, and at the end of each session with the head as the session leaves it. Draws nothing
    from the run's random generators and trains nothing.

    Args:
        every: optimizer steps between two evaluations.
        images_per_session: how many test images of each session; drawn once, all where there are fewer.

    `begin_session` raises ValueError for a protocol that does not test every session so far among all classes so far.
    """

    name = "stability"
    needs_first_session = "its traces begin with session 0"

    def __init__(self, every: int, images_per_session: int = 1000) -> None:
        self.traces = StabilityTraces(every=every, images_per_session=images_per_session)
        self._steps = 0
        self._subsets: list[ImageDataset] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if len(session.tests) != session.id + 1 or any(len(test.candidates) != len(session.class_names) for test in session.tests):
            raise ValueError("stability_every needs a protocol that tests every session so far among all classes so far.")
        for test in session.tests[len(self._subsets) :]:
            self._subsets.append(self._subset(test.data))
        self.traces.untested = [j for j, test in enumerate(session.tests) if not len(test.data)]
        if session.id == 0 and isinstance(trainer.head, PrototypeHead):
            logger.warning(
                "stability_every: a prototype head is fitted when a session ends; until then the traces show new classes at or near 0."
            )
        self.traces.traces.append([])

    def _subset(self, data: ImageDataset) -> ImageDataset:
        size = self.traces.images_per_session
        if size is None or len(data) <= size:
            return data
        draw = np.random.default_rng((DRAW_SEED, len(self._subsets))).choice(len(data), size, replace=False)
        return Subset(data, np.sort(draw).tolist())

    def after_step(self, trainer: Trainer) -> None:
        self._steps += 1
        if self._steps % self.traces.every == 0:
            self._record(self._evaluate(trainer))

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._record(self._evaluate(trainer))
        self.traces.session_ends.append(self._steps)

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer) -> list[float | None]:
        """None for a session without test images."""
        head, correct = trainer.head, []
        tested = [data for data in self._subsets if len(data)]
        sets = [trainer.features_of(data) for data in tested]  # first: it sets the modes of the whole model, and sets them back
        was_training = head.training
        head.eval()
        for found in sets:
            with trainer.accelerator.autocast():
                predicted = head(found.features).argmax(-1)  # [n, D] -> [n]
            correct.append((predicted == found.labels).sum())
        head.train(was_training)
        right = iter(torch.stack(correct).tolist())
        return [next(right) / len(data) if len(data) else None for data in self._subsets]

    def _record(self, accuracies: Sequence[float | None]) -> None:
        """At the end of a session the head may have been fitted once more after the last step: its accuracies replace that step's."""
        traces = self.traces
        again = bool(traces.steps) and traces.steps[-1] == self._steps
        if not again:
            traces.steps.append(self._steps)
        for trace, accuracy in zip(traces.traces, accuracies, strict=True):
            if accuracy is None:
                continue
            if again and trace:
                trace[-1] = accuracy
            else:
                trace.append(accuracy)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "traces": asdict(self.traces)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self.traces = state["steps"], StabilityTraces(**state["traces"])
