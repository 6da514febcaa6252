"""Accuracy all along a stream.

Shapes: n images of a test, D feature width, C classes of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.metrics import anytime_accuracy


class AnytimeAccuracy(Probe):
    """Accuracy on the classes that have come, whenever another `every_images` images of the stream have been trained on, and its mean.

    The mean is A_AUC of Koh et al., "Online Continual Learning on Class Incremental Blurry Task Configuration with Anytime Inference" (ICLR
    2022). As in Si-Blurry's code an evaluation comes after the first batch that passes the threshold and all updates on it; each image
    counts once, and the ends of sessions do not enter the mean. Test images and columns are those of classes that have come by then.

    Args:
        every_images: images between two evaluations.

    Raises ValueError for a number below 1.
    """

    name = "anytime_accuracy"

    def __init__(self, every_images: int = 1000) -> None:
        if every_images < 1:
            raise ValueError(f"AnytimeAccuracy: every_images must be at least 1, got {every_images}.")
        self.every_images = every_images
        self._before = 0  # images of earlier sessions
        self._next = every_images
        self._images: list[int] = []
        self._accuracies: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        count = self._before + trainer.images_seen
        last = trainer.phase.updates_per_batch - 1
        if count > self._next and all(ctx.update == last for ctx in trainer.contexts):
            self._next += self.every_images
            self._images.append(count)
            self._accuracies.append(self._evaluate(trainer))

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._before += trainer.images_seen

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer) -> float:
        head, exposed = trainer.head, trainer.exposed
        tested = [trainer.features_of(test.data) for test in trainer.session.tests if len(test.data)]
        was_training = head.training
        head.eval()
        right, of = [], []
        for found in tested:
            with trainer.accelerator.autocast():
                predicted = head(found.features)[:, :exposed].argmax(-1)  # [n, D] -> [n, C] -> [n]
            come = found.labels < exposed  # [n]
            right.append(((predicted == found.labels) & come).sum())
            of.append(come.sum())
        head.train(was_training)
        correct, total = torch.stack([torch.stack(right).sum(), torch.stack(of).sum()]).tolist()
        return correct / total if total else 0.0

    def report(self) -> dict[str, Any]:
        mean = anytime_accuracy(self._accuracies) if self._accuracies else None
        return {"mean": mean, "images": list(self._images), "accuracies": list(self._accuracies)}

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before, "next": self._next, "images": self._images, "accuracies": self._accuracies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._before, self._next = state["before"], state["next"]
        self._images, self._accuracies = list(state["images"]), list(state["accuracies"])
