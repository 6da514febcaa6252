"""Which known classes make up a new one, by lasso. Measured, cosines do better (docs/contrib.md).

    hf-cl train frozen --import hf_cl.contrib.relevance --config demo --probes '{relevance: {}}'

Shapes: D feature width, T source classes, q target classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.probes import PROBES

MOST_SOURCES = 2000
"""Where there are more, a target is written by so many that are nearest to it."""


@dataclass(frozen=True)
class Relevance:
    """Target classes as sparse combinations of source classes."""

    coefficients: Tensor
    """[T, q] float64."""

    @property
    def importance(self) -> Tensor:
        """[T] each source's sum of sizes over the targets. A negative coefficient counts too: what it tells apart is relevant."""
        return self.coefficients.abs().sum(1)

    def counts(self, total: int, available: Sequence[int], floor: int = 0) -> list[int]:
        """[T] how many images of each source to train on.

        `floor` of each, and the rest in proportion to the importance by largest remainders, ties to the lower position. No source gives
        more than it has; what it lacks is shared out among the others in the same way.

        Raises ValueError for a `total` that is less than the floors or more than there is.
        """
        least = [min(floor, some) for some in available]
        if not sum(least) <= total <= sum(available):
            raise ValueError(f"total lies between the floors, {sum(least)}, and all images, {sum(available)}; got {total}.")
        found, room = np.array(least), np.array(available)
        while (rest := total - int(found.sum())) > 0:
            shares = np.where(found < room, self.importance.numpy(), 0.0)
            if not shares.any():
                shares = np.where(found < room, 1.0, 0.0)  # what is relevant is used up
            exact = rest * shares / shares.sum()
            given = np.floor(exact).astype(int)
            for place in np.argsort(-(exact - given), kind="stable")[: rest - int(given.sum())]:
                given[place] += 1
            found = np.minimum(found + given, room)
        return found.tolist()


def relevance(sources: Tensor, targets: Tensor, *, lam: float = 0.1, centre: bool = True) -> Relevance:
    """argmin 0.5 |W nu - w|^2 + lam max|W' w| |nu|_1 for each target w, with the source class means as the columns of W.

    After Wang et al., "Improved Active Multi-Task Representation Learning via Lasso" (ICML 2023), which writes a target task by the heads
    of source tasks and draws source images in proportion to |nu|; with class means of frozen features in the place of heads. Its rounds
    (train, estimate again) are left to the caller: any features will do. Against "take the nearest classes" its one advantage is
    redundancy: of several nearly equal sources it takes one or two.

    Args:
        sources: [D, T] class means.
        targets: [D, q] class means.
        lam: share of the penalty at which no source is left.
        centre: subtract the sources' mean from both.

    Raises ValueError for `lam` outside (0, 1), fewer than two sources, and means that are not finite or of different widths.
    """
    if not 0 < lam < 1:
        raise ValueError(f"relevance: lam lies between 0 and 1, where 1 leaves no source at all; got {lam}.")
    if sources.ndim != 2 or targets.ndim != 2 or len(sources) != len(targets) or sources.shape[1] < 2:
        raise ValueError(
            f"relevance takes means [D, T] of two sources or more and [D, q] of targets, got {[*sources.shape]} and {[*targets.shape]}."
        )
    w, t = sources.double().cpu().numpy(), targets.double().cpu().numpy()
    if not (np.isfinite(w).all() and np.isfinite(t).all()):
        raise ValueError("relevance: means that are not finite.")
    middle = w.mean(1, keepdims=True) if centre else 0.0
    w, t = w - middle, t - middle
    found = np.zeros((w.shape[1], t.shape[1]))
    for column in range(t.shape[1]):
        target = t[:, column]
        near = np.argsort(((w - target[:, None]) ** 2).sum(0), kind="stable")[:MOST_SOURCES]
        penalty = lam * np.abs(w[:, near].T @ target).max()
        if penalty > 0:
            # scikit-learn divides the square by 2 D
            model = Lasso(alpha=penalty / len(w), fit_intercept=False, tol=1e-10, max_iter=100_000)
            found[near, column] = model.fit(w[:, near], target).coef_
    return Relevance(torch.from_numpy(found))


class RelevanceProbe(Probe):
    """Of which earlier classes the new ones are made, after each session: a report, nothing is trained by it.

    Args:
        lam: of `relevance`.
        shown: sources named per class, the most important first.

    Raises ValueError for values out of range.
    """

    name = "relevance"

    def __init__(self, lam: float = 0.1, shown: int = 5) -> None:
        if not 0 < lam < 1 or shown < 1:
            raise ValueError(f"RelevanceProbe: lam lies between 0 and 1 and shown is at least 1, got {lam} and {shown}.")
        self.lam, self.shown = lam, shown
        self._sessions: list[dict[str, Any]] = []

    def end_session(self, trainer: Trainer, session: Session) -> None:
        statistics = trainer.class_statistics(session)  # asked for in every session: it counts those in which it is asked
        if session.first_new_class < 2 or not session.new_class_names:
            return
        sources, targets = statistics.means(range(session.first_new_class)), statistics.means(session.own)  # [T, D], [q, D]
        coefficients = relevance(sources.T, targets.T, lam=self.lam).coefficients  # [T, q]
        made_of = {
            name: {session.class_names[source]: float(column[source]) for source in _largest(column, self.shown)}
            for name, column in zip(session.new_class_names, coefficients.T, strict=True)
        }
        used = float((coefficients != 0).double().sum(0).mean())
        self._sessions.append({"session": session.id, "sources_per_class": used, "made_of": made_of})

    def report(self) -> dict[str, Any]:
        return {"sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions = list(state["sessions"])


def _largest(column: Tensor, most: int) -> list[int]:
    """Positions of the coefficients that are not 0, the largest first."""
    order = column.abs().argsort(descending=True, stable=True)[:most].tolist()
    return [place for place in order if column[place] != 0]


PROBES["relevance"] = RelevanceProbe
