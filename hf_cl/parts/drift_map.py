"""Statistics of earlier classes follow features that move.

Shapes: n images of a session, D feature width, k directions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.fitted import own_rows
from hf_cl.memory.class_statistics import ClassStatistics

logger = logging.getLogger(__name__)

Kind = Literal["none", "mean", "sdc", "ridge", "procrustes", "functional"]
FOLDS = 5
FAR = 3.0
"""A class that is carried further than this many times the session's own largest displacement is extrapolated: a warning."""


class DriftMap(Part):
    """Carries the statistics of earlier classes along as the features move.

    One small map between the feature spaces before and after a session, fitted on the session's images, which both spaces have seen, and
    applied to the statistics of all earlier classes, whose images are gone, before any head is fitted.

    The drift of class means is compensated as in SDC (Yu et al., "Semantic Drift Compensation for Class-Incremental Learning", CVPR 2020);
    a regularised linear operator between two spaces as in functional maps (Ovsjanikov et al., TOG 2012; DiffuMatch). Where nothing moves,
    nothing is computed beyond the features that the statistics need anyway.

    Args:
        kind: "none": statistics stay where they were and go stale; "mean": one shift; "sdc": a shift per class, weighted by distance;
            "ridge": a shift and a linear map of what is left; "procrustes": a rotation and a shift; "functional": a map between principal
            directions.
        lam: of "ridge": penalty on the map's distance to the identity, times the mean variance; times D / n with fewer images than
            dimensions.
    """

    def __init__(self, kind: Kind = "ridge", lam: float = 0.1) -> None:
        if isinstance(lam, bool) or not lam >= 0:
            raise ValueError(f"DriftMap: lam is a number from 0, got {lam!r}.")
        self.kind: Kind = kind
        self.lam = float(lam)
        self._before: Tensor | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """Features of the session's images as the last session left the model.

        Raises ValueError for a head whose statistics cannot move.
        """
        if self.kind == "none":
            return
        if not trainer.head.moves_with_statistics:
            raise ValueError(
                f"The {type(trainer.head).__name__} keeps statistics under a map of its own, which no drift map can move: "
                "train the adapter in the first session alone (adapt_sessions: first), or take a head without a feature map."
            )
        self._before = own_rows(trainer, session)[0] if trainer.statistics.classes else None  # [n, D]

    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """Move the statistics of all earlier classes."""
        before, self._before = self._before, None
        statistics: ClassStatistics = trainer.statistics
        if before is None or not statistics.classes:
            return
        after = own_rows(trainer, session)[0]  # [n, D]
        if torch.equal(before, after):
            return
        moved = statistics.means(statistics.classes)
        carry(statistics, before, after, self.kind, self.lam)
        self._report(session, statistics, moved, before, after)

    def _report(self, session: Session, statistics: ClassStatistics, means: Tensor, before: Tensor, after: Tensor) -> None:
        distances = (statistics.means(statistics.classes) - means).norm(dim=1)  # [C]
        own = (after - before).norm(dim=1).max()
        furthest = int(distances.argmax())
        name = session.class_names[statistics.classes[furthest]]
        logger.info("Drift map: means moved by %.3g, %s the furthest with %.3g", distances.mean(), name, distances[furthest])
        if distances[furthest] > FAR * own:
            logger.warning(
                "The drift map carries the class %r by %.3g, more than %g times as far as any image of session %d moved: it extrapolates.",
                name,
                distances[furthest],
                FAR,
                session.id,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._before = state["before"]


def carry(statistics: ClassStatistics, before: Tensor, after: Tensor, kind: Kind, lam: float = 0.1) -> None:
    """Move all statistics as the pairs of features `before` and `after` [n, D] say."""
    if kind == "sdc":
        shifts = sdc_shifts(statistics.means(statistics.classes), before, after)  # [C, D]
        for label, shift in zip(statistics.classes, shifts, strict=True):
            statistics.apply_linear(None, shift, [label])
        return
    found = affine_map(before, after, kind, lam)
    statistics.apply_linear(found.matrix, found.shift)


@dataclass(frozen=True)
class Affine:
    """x -> matrix x + shift; the matrix None: the identity."""

    matrix: Tensor | None  # [D, D]
    shift: Tensor  # [D]

    def __call__(self, rows: Tensor) -> Tensor:  # [n, D] -> [n, D]
        return (rows if self.matrix is None else rows @ self.matrix.T) + self.shift


def affine_map(before: Tensor, after: Tensor, kind: Kind, lam: float = 0.1) -> Affine:
    """The map of one kind, from pairs [n, D]; "mean" where there are fewer than two, or where a ridge explains no more than that."""
    start, end = before.mean(0), after.mean(0)
    mean = Affine(None, end - start)
    if kind == "mean" or len(before) < 2:
        return mean
    if kind == "procrustes":
        matrix = rotation(before - start, after - end)
    elif kind == "functional":
        matrix = functional_map(before - start, after - end)
    else:
        lam = lam * max(1.0, before.shape[1] / len(before))
        if explained_cv(before, after, lam) <= 0:
            logger.info("Drift map: a linear map explains no more of the drift than one shift does; the shift is taken.")
            return mean
        matrix = (torch.eye(before.shape[1], dtype=before.dtype) + ridge_drift(before, after, lam)).T
    return Affine(matrix, end - matrix @ start)


def ridge_drift(before: Tensor, after: Tensor, lam: float) -> Tensor:
    """[D, D] A: rows x move by their mean drift and (x - mean) A. The penalty sits on A, so a direction without evidence is not shrunk."""
    x = before - before.mean(0)  # [n, D]
    drift = after - before
    gram = x.T @ x / len(x)  # [D, D]
    penalty = lam * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + penalty, x.T @ (drift - drift.mean(0)) / len(x))


def explained(before: Tensor, after: Tensor, drift: Tensor) -> float:
    """Share of the drift's variance about its mean that A [D, D] explains on these pairs."""
    x, d = before - before.mean(0), after - before
    d = d - d.mean(0)
    return 1 - float((d - x @ drift).square().sum() / d.square().sum())


def explained_cv(before: Tensor, after: Tensor, lam: float) -> float:
    """The same on pairs that the map was not fitted on, over `FOLDS` folds."""
    n = len(before)
    left = total = 0.0
    for fold in range(min(FOLDS, n)):
        out = torch.arange(n) % FOLDS == fold
        start, drift = before[~out].mean(0), (after - before)[~out].mean(0)
        rest = (after - before)[out] - drift
        total += float(rest.square().sum())
        left += float((rest - (before[out] - start) @ ridge_drift(before[~out], after[~out], lam)).square().sum())
    return 1 - left / total if total else 0.0


def rotation(x: Tensor, y: Tensor) -> Tensor:
    """[D, D] R with R x nearest to y, of centred rows (Schoenemann, Psychometrika 1966)."""
    left, _, right = torch.linalg.svd(y.T @ x)
    return left @ right


def sdc_sigma(means: Tensor, before: Tensor) -> Tensor:
    """[] the 5 % quantile of the distances from means to features."""
    return torch.quantile(torch.cdist(means, before).flatten(), 0.05)


def sdc_shifts(means: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """[C, D] the drift of the images around each mean [C, D], weighted by exp(-d^2 / 2 sigma^2)."""
    weights = torch.softmax(-torch.cdist(means, before).square() / (2 * sdc_sigma(means, before).square()), dim=1)  # [C, n]
    return weights @ (after - before)


def principal(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest variances [k] of centred rows and their directions [D, k], the largest entry of each positive."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    largest = vectors.abs().argmax(0)
    return values, vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()


def functional_map(x: Tensor, y: Tensor, k: int = 32, mu: float = 1e-2) -> Tensor:
    """[D, D] a map between the first principal directions of centred rows; what lies outside of those is carried over.

    Row i of C is the ridge solution with the penalty mu (e_i - e_j)^2 on its entry j, where e are the variances over the largest of both.
    """
    (values_x, basis_x), (values_y, basis_y) = principal(x, k), principal(y, k)
    coefficients = functional_coefficients(x @ basis_x, y @ basis_y, commutativity(values_x, values_y), mu)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    return basis_y @ coefficients @ basis_x.T + identity - basis_x @ basis_x.T


def commutativity(values_x: Tensor, values_y: Tensor) -> Tensor:
    """[k, k] squared differences of the spectra, over the largest value of both."""
    return ((values_y[:, None] - values_x) / torch.maximum(values_x[0], values_y[0])).square()


def functional_coefficients(a: Tensor, b: Tensor, mask: Tensor, mu: float) -> Tensor:
    """[k, k] C, row by row: min ||C_i a^T - b_i^T||^2 / n + mu sum_j mask_ij C_ij^2; a and b [n, k]."""
    gram, cross = a.T @ a / len(a), a.T @ b / len(a)  # [k, k]
    rows = [torch.linalg.solve(gram + mu * torch.diag(weights), cross[:, i]) for i, weights in enumerate(mask)]
    return torch.stack(rows)
