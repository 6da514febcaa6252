"""Which labels look wrong to the early-learning memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.losses import EarlyLearning

LISTED = 1000


class SuspectedLabels(Probe):
    """Per session: the share of training images whose remembered class is not their label, and the first thousand of them.

    It reads the memory of the loss `early_learning` (Liu et al., NeurIPS 2020) as the session ends. It is advice for whoever keeps the
    labels; nothing is relabelled. An image is `[sample id, label, remembered class, its probability]`, classes as positions.

    Args:
        loss: the name of the loss whose memory it is.

    `begin_session` raises ValueError for a run without such a loss.
    """

    name = "suspected_labels"

    def __init__(self, loss: str = "early_learning") -> None:
        self.loss = loss
        self._sessions: list[dict[str, Any]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.losses.get(self.loss), EarlyLearning):
            raise ValueError(f"The probe suspected_labels reads the memory of early_learning, and this run has no such loss {self.loss!r}.")

    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """Before the loss gives its memory up."""
        term = trainer.losses[self.loss]
        if not isinstance(term, EarlyLearning):
            return
        ids, averages = term.memory()  # [n], [n, c]
        first = len(session.class_names) - averages.shape[1]
        order = torch.argsort(torch.as_tensor(list(session.training_images.indices), device=ids.device))
        labels = torch.as_tensor(list(session.training_images.labels), device=ids.device)[order] - first  # [n] by ascending id
        best = averages.max(1)
        wrong = (best.indices != labels) & (averages.sum(1) > 0)  # [n] an image that no step has met has no memory
        chosen = wrong.nonzero()[:, 0][:LISTED]
        total = averages.sum(1).clamp(min=1e-12)
        listed = [
            [int(ids[i]), int(labels[i]) + first, int(best.indices[i]) + first, round(float(best.values[i] / total[i]), 4)]
            for i in chosen.tolist()
        ]
        self._sessions.append({"session": session.id, "share": float(wrong.float().mean()), "images": listed})

    def report(self) -> dict[str, Any]:
        return {"share": self._sessions[-1]["share"] if self._sessions else None, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions = list(state["sessions"])
