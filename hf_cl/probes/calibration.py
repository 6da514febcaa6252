"""Whether the model is right as often as it says, and how much of what is missing is a mere scale of its logits.

Shapes: n test images, C classes seen so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import ImageDataset, Probe, Session, Trainer
from hf_cl.metrics import CalibrationBins, expected_calibration_error
from hf_cl.probes.subset import Subset

HOTTEST = 100.0
"""Temperatures are searched from 1 / HOTTEST to HOTTEST."""
GOLDEN = (math.sqrt(5) - 1) / 2
HALVINGS = 40
"""Steps of the search; each leaves GOLDEN of the interval, so that 40 of them find log T to 4e-8."""

Probabilities = Callable[[Tensor], Tensor]


class Calibration(Probe):
    """Per session, over all classes seen: calibration error and negative log-likelihood, before and after temperature scaling.

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017, arXiv 1706.04599): dividing all logits by one temperature changes no
    prediction. Each half of the images is scored with the temperature that gives the other half the highest likelihood, so no image judges
    what was fitted to itself; `temperature` is that of all. The temperatures come from test images, so the scaled numbers say what a scale
    could mend and are none of the model's own. Probabilities are those of the head (`Head.probabilities`).

    It runs the backbone once more over the images that it reads, and keeps their logits of one session.

    Args:
        images: at most so many test images, spread evenly over all tests of the session.

    Raises ValueError for a number below 2, and at the beginning of a session for a protocol whose tests choose among other classes than
    those seen so far.
    """

    name = "calibration"

    def __init__(self, images: int = 5000) -> None:
        if images < 2:
            raise ValueError(f"Calibration: images must be at least 2, got {images}.")
        self.images = images
        self._sessions: list[dict[str, Any]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if any(len(test.candidates) != len(session.class_names) for test in session.tests):
            raise ValueError("The probe calibration needs a protocol whose tests choose among all classes seen so far.")

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        head = trainer.head
        sets = [
            trainer.features_of(data) for data in self._chosen(session)
        ]  # first: it sets the modes of the whole model, and sets them back
        was_training = head.training
        head.eval()
        parts: list[Tensor] = []
        for found in sets:
            with trainer.accelerator.autocast():
                parts.append(head(found.features))  # [n, C]
        head.train(was_training)
        logits = torch.cat(parts).cpu().double()  # [n, C]
        labels = torch.cat([found.labels for found in sets]).cpu()  # [n]
        self._sessions.append({"session": session.id, **calibration_of(logits, labels, head.probabilities)})

    def _chosen(self, session: Session) -> list[ImageDataset]:
        """The tests' images that are read, a data set each."""
        sizes = [len(test.data) for test in session.tests]
        total = sum(sizes)
        if total <= self.images:
            return [test.data for test in session.tests if len(test.data)]
        places = [int((i + 0.5) * total / self.images) for i in range(self.images)]
        chosen: list[ImageDataset] = []
        for test, size in zip(session.tests, sizes, strict=True):
            own = [place for place in places if 0 <= place < size]
            places = [place - size for place in places]
            if own:
                chosen.append(Subset(test.data, own))
        return chosen

    def report(self) -> dict[str, Any]:
        last = {key: value for key, value in self._sessions[-1].items() if key != "session"} if self._sessions else {}
        return {**last, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions = list(state["sessions"])


def calibration_of(logits: Tensor, labels: Tensor, probabilities: Probabilities) -> dict[str, Any]:
    """Logits [n, C] in float64 and labels [n] -> what a session reports; nothing scaled where there are fewer than two images."""
    rows = torch.arange(len(labels))
    numbers: dict[str, Any] = {"images": len(labels), **_errors(probabilities(logits), labels)}
    if len(labels) < 2:
        return numbers
    scaled = torch.empty_like(logits)
    for half in (0, 1):
        scaled[rows % 2 == half] = logits[rows % 2 == half] / best_temperature(
            logits[rows % 2 != half], labels[rows % 2 != half], probabilities
        )
    numbers["temperature"] = best_temperature(logits, labels, probabilities)
    return numbers | {f"scaled_{name}": value for name, value in _errors(probabilities(scaled), labels).items()}


def best_temperature(logits: Tensor, labels: Tensor, probabilities: Probabilities) -> float:
    """The T that gives the labels [n] the highest likelihood under `probabilities(logits / T)`, by a golden section over log T."""

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(probabilities(logits / math.exp(log_temperature)), labels)

    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    of_left, of_right = cost(left), cost(right)
    for _ in range(HALVINGS):
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - GOLDEN * (high - low)
            of_left = cost(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + GOLDEN * (high - low)
            of_right = cost(right)
    return math.exp((low + high) / 2)


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the labels [n] under [n, C]; what rounds to 0 counts as the smallest number of its type."""
    own = probabilities.gather(1, labels[:, None])[:, 0]  # [n]
    return float(-own.clamp(min=torch.finfo(own.dtype).tiny).log().mean())


def _errors(probabilities: Tensor, labels: Tensor) -> dict[str, float | None]:
    best = probabilities.max(1)
    bins = CalibrationBins.of(best.values.numpy(), (best.indices == labels).numpy())
    return {
        "expected_calibration_error": expected_calibration_error(bins),
        "negative_log_likelihood": negative_log_likelihood(probabilities, labels),
    }
