"""The FeTrIL head: pseudo-features of old classes, translated from new ones, and a linear classifier refitted after each session.

Shapes: B batch, C classes seen so far, D feature width, n images of a class, N rows of a fit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Session, Trainer
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number, own_rows
from hf_cl.heads.refit import RefitHead
from hf_cl.memory.class_statistics import ClassStatistics

logger = logging.getLogger(__name__)


class FeTrILHead(RefitHead):
    """Of each old class its mean alone is kept. Its pseudo-features are those of the nearest new class, moved so that their mean is the old
    one, and one-against-rest support vector machines with squared hinge are fitted to real and pseudo-features.

    Petit et al., "FeTrIL: Feature Translation for Exemplar-Free Class-Incremental Learning", WACV 2023. Train mode: trainable linear rows.

    Args:
        C: weight of the squared hinge.
        normalize: rows have length 1, after the translation.
        old_features_per_class: at most so many pseudo-features of an old class; None: as many as the class they come from has images.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these.
    """

    new_classes_only = "FeTrIL translates the features of new classes, and its old ones are their means alone"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        C: float = 1.0,
        normalize: bool = True,
        old_features_per_class: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_bool("FeTrILHead", normalize=normalize)
        check_number("FeTrILHead", "C", C, math.ulp(0.0), math.inf, "a positive number")
        if old_features_per_class is not None:
            check_count("FeTrILHead", "old_features_per_class", old_features_per_class, 1, 2**31)
        super().__init__(in_features, num_classes, device=device, dtype=dtype)
        self.C, self.normalize, self.most = C, normalize, old_features_per_class
        self.reads_features = not normalize

    def inputs(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.normalize else features

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Refit all classes on the session's features and translations of them.

        Raises ValueError for a class without images, and, with `normalize`, for a row without length.
        """
        features, labels, index = own_rows(trainer, session)
        means = trainer.class_statistics(session)
        rows, classes = zip(*pseudo_features(means, features, labels, self.num_classes, self.most), strict=True)
        x = torch.cat(rows)  # [N, D]
        if self.normalize:
            zero = x.norm(dim=1) == 0
            if zero.any():
                raise ValueError(f"{int(zero.sum())} rows of session {session.id} have no length; sample ids {index[:3].tolist()}, ...")
            x = F.normalize(x, dim=1)
        y = torch.cat([torch.full((len(some),), label) for label, some in zip(classes, rows, strict=True)])
        self.set_fit(*linear_svm(x, y, self.num_classes, self.C))
        as_on_rank_0([self.fitted_weight, self.fitted_bias])


def pseudo_features(
    statistics: ClassStatistics, features: Tensor, labels: Tensor, num_classes: int, most: int | None = None
) -> Iterator[tuple[Tensor, int]]:
    """(rows [n, D], class) for every class: real ones where the session has images, else those of the nearest such class, moved."""
    real = {label: features[labels == label] for label in labels.unique().tolist()}
    few = [label for label, rows in real.items() if len(rows) == 1]
    if few and len(real) < num_classes:
        logger.warning("Classes %s have one image each: all pseudo-features that come from them coincide.", few)
    for label in range(num_classes):
        if label in real:
            yield real[label], label
            continue
        source = statistics.nearest(label, list(real))
        yield real[source][:most] - statistics.mean(source) + statistics.mean(label), label


def linear_svm(x: Tensor, y: Tensor, num_classes: int, cost: float, *, tolerance: float = 1e-6, most: int = 50) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of one-against-rest machines: min 0.5 |w|^2 + 0.5 b^2 + cost sum max(0, 1 - y (w x + b))^2.

    Newton's method on the primal (Keerthi and DeCoste, JMLR 2005): with the rows inside the margin held, the minimum is a linear system. A
    step that does not lower the objective is halved.

    Args:
        x: [N, D] float64.
        y: [N] classes.
        tolerance: of the gradient's norm, relative to that at zero.
        most: Newton steps per class.
    """
    z = torch.cat([x, x.new_ones(len(x), 1)], 1)  # [N, D + 1]
    identity = torch.eye(z.shape[1], dtype=z.dtype)
    gram = z.T @ z  # all rows lie inside the margin at the start, whatever the class
    found = z.new_zeros(num_classes, z.shape[1])
    for label in range(num_classes):
        target = torch.where(y == label, 1.0, -1.0).to(z)  # [N]
        w = z.new_zeros(z.shape[1])
        inside = torch.ones(len(z), dtype=torch.bool)
        start = 2 * cost * (z.T @ target).norm()
        for step in range(most):
            rows = z[inside]
            hessian = identity + 2 * cost * (gram if step == 0 else rows.T @ rows)
            direction = torch.linalg.solve(hessian, 2 * cost * rows.T @ target[inside]) - w
            w = _descend(z, target, w, direction, cost)
            margin = 1 - target * (z @ w)
            inside = margin > 0
            gradient = w - 2 * cost * z[inside].T @ (target * margin)[inside]
            if gradient.norm() <= tolerance * start:
                break
        found[label] = w
    return found[:, :-1], found[:, -1]


def _descend(z: Tensor, target: Tensor, w: Tensor, direction: Tensor, cost: float) -> Tensor:
    def objective(point: Tensor) -> Tensor:
        return 0.5 * point.square().sum() + cost * (1 - target * (z @ point)).clamp_min(0.0).square().sum()

    before, size = objective(w), 1.0
    while objective(w + size * direction) > before and size > 1e-6:
        size /= 2
    return w + size * direction
