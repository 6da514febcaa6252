"""Ridge regression on one-hot targets from sums that add up over sessions.

Everything is float64 on the CPU. Shapes: n rows, C classes, M width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cl.memory.class_statistics import ClassStatistics


@dataclass(frozen=True)
class Sums:
    """Weighted sums over all images: what ridge regression needs of them."""

    gram: Tensor  # [M, M] sum of w z z^T
    cross: Tensor  # [M, C] sum of w z y^T
    weights: Tensor  # [C] sum of w by class

    @staticmethod
    def of(statistics: ClassStatistics, num_classes: int, *, balanced: bool, weighted: Tensor | None = None) -> Sums:
        """Of class statistics.

        Args:
            balanced: every class weighs the same, by weights 1 / n_c scaled to a mean of 1.
            weighted: [M, M] the sum of scatters over their counts, where single scatters are not kept.

        Raises KeyError for a class without images, ValueError where `balanced` needs scatters of single classes that are not kept.
        """
        counts = torch.tensor([statistics.count(label) for label in range(num_classes)], dtype=torch.float64)
        means = statistics.means(range(num_classes))  # [C, M]
        per_image = sample_weights(counts) if balanced else torch.ones_like(counts)
        if balanced and weighted is not None:
            scatter = weighted * counts.sum() / len(counts)
        elif balanced:
            factors = (statistics.factor(label) * weight**0.5 for label, weight in enumerate(per_image.tolist()))
            scatter = torch.stack([factor.T @ factor for factor in factors]).sum(0)
        else:
            scatter = statistics.pooled_scatter() * per_image[0]
        weights = per_image * counts
        return Sums(scatter + (means.T * weights) @ means, means.T * weights, weights)

    @property
    def mean(self) -> Tensor:  # [M]
        return self.cross.sum(1) / self.weights.sum()

    def centred(self) -> Sums:
        """Around the mean of rows and targets: a constant column without a penalty."""
        total, mean = self.weights.sum(), self.mean
        return Sums(self.gram - total * torch.outer(mean, mean), self.cross - torch.outer(mean, self.weights), self.weights)

    def cholesky(self, lam: float) -> Tensor:
        """[M, M] of gram + lam I. Raises ValueError where it is not positive definite."""
        lower, failed = torch.linalg.cholesky_ex(self.gram + lam * torch.eye(len(self.gram), dtype=self.gram.dtype))
        if failed:
            raise ValueError(f"The ridge system of width {len(self.gram)} is singular with lam {lam:g}: give the head a larger `lam`.")
        return lower


def sample_weights(counts: Tensor) -> Tensor:
    """[C] 1 / n_c, scaled so that the mean over all images is 1."""
    return counts.sum() / len(counts) / counts


def solve(sums: Sums, lam: float, *, bias: bool) -> tuple[Tensor, Tensor]:
    """Weight [C, M] and bias [C] of the ridge regression with penalty `lam`; the bias has none. Raises as `Sums.cholesky`."""
    system = sums.centred() if bias else sums
    weight = torch.cholesky_solve(system.cross, system.cholesky(lam)).T  # [C, M]
    if not bias:
        return weight, weight.new_zeros(len(weight))
    return weight, sums.weights / sums.weights.sum() - weight @ sums.mean


def left_out_error(sums: Sums, lam: float, rows: Tensor, labels: Tensor, *, bias: bool, weights: Tensor | None = None) -> float:
    """Mean over `rows` [n, M] of the squared residual that each has when it is left out of the sums, which hold it.

    In closed form: (y - prediction) / (1 - h), with h the row's own leverage.
    """
    system = sums.centred() if bias else sums
    lower = system.cholesky(lam)
    weight = torch.cholesky_solve(system.cross, lower).T
    z = rows - sums.mean if bias else rows
    targets = torch.nn.functional.one_hot(labels, len(sums.weights)).double()  # [n, C]
    share = sums.weights / sums.weights.sum() if bias else 0.0
    leverage = torch.linalg.solve_triangular(lower, z.T, upper=False).square().sum(0)  # [n]
    leverage = leverage + (1 / sums.weights.sum() if bias else 0.0)
    if weights is not None:
        leverage = leverage * weights
    residual = (targets - share - z @ weight.T) / (1 - leverage).clamp_min(1e-12)[:, None]  # [n, C]
    return float(residual.square().sum(1).mean())


def best_penalty(sums: Sums, grid: Iterable[float], rows: Tensor, labels: Tensor, *, bias: bool, weights: Tensor | None = None) -> float:
    """The penalty of `grid` with the least error of what is left out."""
    return min(grid, key=lambda lam: left_out_error(sums, lam, rows, labels, bias=bias, weights=weights))
