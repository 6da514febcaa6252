"""Whether a session was trained too long.

Shapes: n validation images, C classes seen so far.
"""

from __future__ import annotations

from typing import Any

from hf_cl.contracts import Session, Trainer
from hf_cl.metrics import validation_summary
from hf_cl.probes.each_epoch import EachEpoch
from hf_cl.probes.judged import evenly, logits_of

LEAST = 1e-12
"""Probabilities below it count as it."""


class EpochProbe(EachEpoch):
    """Loss and accuracy on the session's validation images after every epoch: "best at epoch 7 of 60; the rest cost 1.6 points".

    After Xue et al., "To Repeat or Not To Repeat: Insights from Scaling LLM under Token-Crisis" (NeurIPS 2023), for whom more epochs over
    the same data make a model worse. Loss and accuracy are among the session's own classes; accuracy among all classes seen stands beside
    them. It never stops training: a run that is resumed, compared or tuned has the length that its settings say.

    Under a head that is fitted when the session ends it judges the rows that training moves. Where nothing before the head trains, the
    images go through the backbone once.

    Args:
        every: epochs between two looks; the last epoch is always looked at.
        images: at most so many validation images, evenly spread.

    Raises ValueError for numbers below 1, and `begin_session` for a run that holds no images out.
    """

    name = "epochs"

    def __init__(self, every: int = 1, images: int = 1000) -> None:
        super().__init__(every, images)

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        data = trainer.validation_of(session)
        if data is None or not len(data):
            raise ValueError(
                f"The probe epochs looks at validation images, and session {session.id} has none: --validation_fraction 0.1 holds some out."
            )
        self._data, self._begun = evenly(data, self.images), 0
        self._trace = {"measured": [], "validation_loss": [], "validation_accuracy": [], "accuracy_all_classes": []}

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._last_look(trainer, session)
        trace = self._trace
        found = validation_summary(trace["validation_loss"], trace["validation_accuracy"], trace["measured"])
        self._sessions.append({"session": session.id, "epochs": self._begun, **trace, **found})
        self._data = None

    def _look(self, trainer: Trainer, session: Session) -> None:
        assert self._data is not None
        logits, labels = logits_of(trainer, self._data)  # [n, C], [n]
        own = logits[:, session.own.start : session.own.stop]
        probabilities, targets = trainer.head.probabilities(own), labels - session.own.start
        likelihood = probabilities.gather(1, targets[:, None]).double().clamp_min(LEAST).log()
        self._trace["measured"].append(self._begun - 1)
        self._trace["validation_loss"].append(-float(likelihood.mean()))
        self._trace["validation_accuracy"].append(float((own.argmax(1) == targets).double().mean()))
        self._trace["accuracy_all_classes"].append(float((logits.argmax(1) == labels).double().mean()))

    def report(self) -> dict[str, Any]:
        last = self._sessions[-1] if self._sessions else {}
        numbers = {key: last.get(key) for key in validation_summary([], [])}
        return {**numbers, "sessions": list(self._sessions)}
