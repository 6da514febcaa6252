"""What a ridge regression would say of each image if it had not seen it: in closed form, without a fit for each.

Everything is float64 on the CPU. Shapes: n images, D feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 5))
"""Tried in turn, in units of the mean eigenvalue of the features' scatter."""
MOST = 2000
"""Images that choose among them."""


class LeaveOneOut:
    """Ridge regression on one-hot labels with a bias that is not penalised, and each image's prediction by the others.

    With H the hat matrix, the residual of an image that was left out is (y - prediction) / (1 - H_ii); so all n refits cost one
    decomposition of a [D, D] matrix, and no [n, n] matrix is made.

    Args:
        features: [n, D].
        labels: [n].
        num_classes: C.

    Raises ValueError for fewer than two images.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        if len(labels) < 2:
            raise ValueError("Leaving one image out needs at least two.")
        rows = features.double().cpu()  # [n, D]
        self.targets = torch.nn.functional.one_hot(labels.cpu().long(), num_classes).double()  # [n, C]
        self._mean = rows.mean(0)
        centred = rows - self._mean
        values, self._vectors = torch.linalg.eigh(centred.T @ centred)
        self._values, self._rows = values.clamp_min(0), centred @ self._vectors  # [D], [n, D] in the basis of eigenvectors
        self._cross = self._rows.T @ self.targets  # [D, C]

    def penalty(self, penalties: Sequence[float] = PENALTIES) -> float:
        """The penalty with the least squared error on what is left out, told by `MOST` images evenly spread.

        Args:
            penalties: in units of the mean eigenvalue of the scatter, `scale`.
        """
        among = torch.linspace(0, len(self._rows) - 1, min(MOST, len(self._rows))).long()
        return min(
            (self.scale * factor for factor in penalties),
            key=lambda lam: float((self.targets[among] - self.scores(lam, among)).square().mean()),
        )

    @property
    def scale(self) -> float:
        """Mean eigenvalue of the features' scatter."""
        return float(self._values.mean()) or 1.0

    def scores(self, lam: float, among: Tensor | None = None) -> Tensor:
        """[n, C] what the other images predict for each under the penalty `lam`; of those `among` (positions or mask) alone."""
        rows, targets = (self._rows, self.targets) if among is None else (self._rows[among], self.targets[among])
        shrunk = rows / (self._values + lam)  # [n, D]
        predicted = self.targets.mean(0) + shrunk @ self._cross  # [n, C]
        leverage = 1 / len(self._rows) + (rows * shrunk).sum(1)  # [n]
        return targets - (targets - predicted) / (1 - leverage).clamp_min(1e-12)[:, None]

    def predict(self, features: Tensor, lam: float) -> Tensor:
        """[m, D] images that were not seen -> [m, C]."""
        rows = (features.double().cpu() - self._mean) @ self._vectors
        return self.targets.mean(0) + rows / (self._values + lam) @ self._cross


def suspicion(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How much another class is preferred to the label, [n], and which, [n].

    Above 0 the label is not what [n, C] `scores` say; what is largest looks most like a wrong label.
    """
    own = scores.gather(1, labels[:, None])[:, 0]  # [n]
    others = scores.scatter(1, labels[:, None], -torch.inf)
    best = others.max(1)
    return best.values - own, best.indices
