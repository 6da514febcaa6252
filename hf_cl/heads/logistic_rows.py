"""What a logistic head is fitted to: images of the session, and rows drawn for what there was before.

Shapes: n rows, D columns, C classes that are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hf_cl.contracts import Session, Trainer
from hf_cl.heads.held_back import FOLDS, fold_of
from hf_cl.heads.logistic_fit import Rows
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.gaussian import GaussianMemory


@dataclass(frozen=True)
class TrainingRows:
    """Rows with their classes, folds and share: of a class that came before, draws stand for as many images as it had."""

    x: Tensor  # [n, D] float64
    labels: Tensor  # [n] from 0, the first class that is fitted
    folds: Tensor  # [n] from 0; those that judge (draws in fold -1) and those that always train (fold -2)
    counts: Tensor  # [C, 2] images of the session, and before it
    first: int
    """Position of the first class that is fitted."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @staticmethod
    def of(
        trainer: Trainer,
        session: Session,
        own: tuple[Tensor, Tensor, Tensor],
        num_classes: int,
        draws: int,
        memory: Literal["gaussian", "none"],
    ) -> TrainingRows:
        """The session's own rows (features, labels, sample ids) and draws of all classes that came before.

        Raises ValueError where, without a memory, a session of one class has nothing to be told from.
        """
        first = 0 if memory == "gaussian" else session.own.start
        x, labels, index = (of_all[own[1] >= first] for of_all in own)
        if memory == "none" and num_classes - first == 1 and first:
            raise ValueError(
                f"Session {session.id} brings one class, and with `memory: none` a logistic head tells new classes from each other alone: "
                "give it `memory: gaussian`."
            )
        folds = fold_of(labels, index, trainer.seed, session.id)
        counts = torch.zeros(num_classes - first, 2, dtype=torch.float64)
        counts[:, 0] = torch.bincount(labels - first, minlength=len(counts))
        parts = [(x, labels, folds)]
        if memory == "gaussian":
            before: ClassStatistics = trainer.class_statistics(session).before(session.id)
            for label in before.classes:
                counts[label, 1] = before.count(label)
                for fold, number in ((-2, draws), (-1, max(1, draws // FOLDS))):
                    drawn = _drawn(before, label, number, trainer.generator_for("logistic", label, fold))
                    parts.append((drawn, torch.full((len(drawn),), label), torch.full((len(drawn),), fold)))
        rows, classes, folds = (torch.cat(some) for some in zip(*parts, strict=True))
        single = (counts.sum(1) == 1)[classes - first]  # nothing would be left to train on
        return TrainingRows(rows, classes - first, torch.where(single, -2, folds), counts, first)

    def smallest(self) -> int:
        """Images of the class that has the fewest in this session, of those that have any."""
        own = self.counts[:, 0]
        return int(own[own > 0].min())

    def all(self) -> Rows:
        """All but the draws that judge."""
        return self._chosen(self.folds != -1)

    def without(self, fold: int) -> Rows:
        """What is fitted while `fold` judges."""
        return self._chosen((self.folds != -1) & (self.folds != fold))

    def of_fold(self, fold: int) -> Rows:
        """What judges: images of the session, and draws beside them."""
        held = self.folds == fold
        return self._chosen(held | (self.folds == -1)) if held.any() else self._chosen(held)

    def _chosen(self, rows: Tensor) -> Rows:
        """Some rows, weighted: every class the same, and in it images and draws as there were images."""
        labels, drawn = self.labels[rows], (self.folds[rows] < 0) & (self.counts[self.labels[rows], 1] > 0)
        kind = 2 * labels + drawn.long()
        present = torch.bincount(kind, minlength=2 * self.num_classes).double().view(-1, 2)  # [C, 2]
        share = torch.where(present > 0, self.counts, 0.0)
        share = share / share.sum(1, keepdim=True).clamp_min(1e-300) / max(1, int((share.sum(1) > 0).sum()))
        return Rows(self.x[rows], labels, (share / present.clamp_min(1)).view(-1)[kind])


def _drawn(statistics: ClassStatistics, label: int, count: int, generator: torch.Generator) -> Tensor:
    """[count, D] of the class's Gaussian; its one image where no class has a second, so that there is no covariance at all."""
    if max(statistics.count(other) for other in statistics.classes) == 1:
        return statistics.mean(label)[None]
    return GaussianMemory(statistics).sample(label, count, generator)
