"""Probabilities that mean something: the temperature by which a run divides its logits in eval mode.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599): one number, found on images that the head has not
seen. The order of the classes stays, and with it every accuracy.

Shapes: n images, B of them held out, C classes seen so far, D feature width, T temperatures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import Head, Part, Session, Trainer
from hf_cl.heads.fitted import learned
from hf_cl.heads.held_back import held_back
from hf_cl.heads.without_some import WithoutSome
from hf_cl.training.frozen import evaluating

logger = logging.getLogger(__name__)

TEMPERATURES = 10 ** (torch.arange(-60, 41, dtype=torch.float64) / 20)
"""From 0.001 (scores of a regression lie between 0 and 1) to 100."""
_SMALLEST = 1e-300


class Calibration:
    """What is known of a run's temperature: the losses of held-out images at each one, summed over the sessions.

    A head that fits itself is fitted once more at a session's end, without a fifth of the session's images, which it then judges. A head
    that trains is judged on the session's validation images, where there are some. The temperature of a session alone would follow its
    noise, and images of earlier sessions are gone; so losses add up.
    """

    def __init__(self) -> None:
        self.losses = torch.zeros(2, len(TEMPERATURES), dtype=torch.float64)
        self.images = 0
        self._trial: Head | None = None

    def begin(self, head: Head) -> None:
        """Before hooks end a session: keep a head that fits itself as it is."""
        self._trial = deepcopy(head) if head.fits and head.own_temperature is None else None

    @torch.no_grad()
    def end(self, trainer: Trainer, classifier: AnyClassifier, session: Session) -> float | None:
        """The temperature after a session; None where no image was ever held out, and for a head that has its own."""
        trial, self._trial = self._trial, None
        if classifier.head.own_temperature is not None:
            return None
        if trial is not None:
            logits, labels = _of_a_trial(trial, trainer, session)
        else:
            logits, labels = _of_validation(trainer, classifier, session)
        if len(labels):
            self.losses += losses(classifier.head, logits, labels)
            self.images += len(labels)
        if not self.images:
            return None
        temperature = best(self.losses, self.images)
        logger.info("Temperature %.3g, by %d images that were held out", temperature, self.images)
        return temperature

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"losses": self.losses, "images": self.images}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.losses, self.images = state["losses"], state["images"]


def losses(head: Head, logits: Tensor, labels: Tensor) -> Tensor:
    """[2, T] summed at each temperature, by the probabilities that the head makes of logits [B, C]: the negative log likelihood of `labels`
    [B], and that of all classes evenly."""
    rows = torch.arange(len(labels))
    found = []
    for t in TEMPERATURES:
        logs = head.probabilities(logits / t).clamp_min(_SMALLEST).log()  # [B, C]
        found.append(-torch.stack([logs[rows, labels].sum(), logs.mean(1).sum()]))  # [2]
    return torch.stack(found, 1)  # [2, T]


def best(losses: Tensor, images: int) -> float:
    """The temperature of the least loss [2, T], as if one image more had been named by chance.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999: where all of a few images are named rightly, the likelihood alone
    would have the head be sure without end.
    """
    share = 1 / (images + 2)
    return float(TEMPERATURES[((1 - share) * losses[0] + share * losses[1]).argmin()])


def _of_validation(trainer: Trainer, classifier: AnyClassifier, session: Session) -> tuple[Tensor, Tensor]:
    """[B, C] float64 and [B] of the images held out of the session, by the head as it is."""
    held = trainer.validation_of(session)
    if held is None or not len(held):
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    data = trainer.features_of(held)
    with evaluating(classifier):
        return classifier.logits_of(data.features).cpu().double(), data.labels.cpu()


def _of_a_trial(trial: Head, trainer: Trainer, session: Session) -> tuple[Tensor, Tensor]:
    """The same of a fifth of the session's own images, by a head that was fitted to all others."""
    data = trainer.features_of(session.train)
    labels, index = data.labels.cpu(), data.index.cpu()
    own = learned(trial, session, labels)
    held = torch.zeros_like(own)
    held[own] = held_back(labels[own], index[own], trainer.seed, session.id)
    if held.any():
        assert isinstance(trial, Part)
        view: Any = WithoutSome(trainer, trial, session, ~held, lambda: trainer.class_statistics(session).before(session.id))
        trial.end_session(view, session)
    chosen = held.nonzero()[:, 0]
    return trial.eval()(data.features[chosen.to(data.features.device)]).cpu().double(), labels[chosen]
