"""The moments of one class: count, mean and what is kept of its scatter.

Shapes: D width of the features, n samples, k rows of a factor (at most min(n - 1, D)), r rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A covariance as `factor^T factor + residual I` (probabilistic PCA; Tipping and Bishop, J. R. Stat. Soc. B 61, 1999)."""

    factor: Tensor  # [r, D] float64
    residual: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", laid_out(self.factor))


@dataclass(frozen=True)
class Moments:
    """Count, mean, and the kinds of scatter that are kept; no tensor is ever changed in place, so moments can be shared.

    Tensors are laid out as those that are read from a file: products round by layout and alignment, and a resumed run keeps its bits.
    """

    count: int
    mean: Tensor  # [D] float64
    factor: Tensor | None = None  # [k, D] float64: factor^T factor is the scatter, the sum of (x - mean)(x - mean)^T
    squares: Tensor | None = None  # [D] float64: the diagonal of the scatter
    low_rank: LowRank | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "factor", "squares"):
            tensor = getattr(self, name)
            if tensor is not None:
                object.__setattr__(self, name, laid_out(tensor))

    @staticmethod
    def of(features: Tensor) -> Moments:
        """Of the rows of `features` [n, D], float64, with the exact scatter."""
        mean = features.mean(0)  # [D]
        return Moments(len(features), mean, factor=scatter_factor(features - mean))

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together.

        Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", Stanford STAN-CS-79-773, 1979.
        The scatter's cross term d d^T n_a n_b / n is one row more of its factor.
        """
        if not other.count:
            return self
        row = self.cross_row(other)  # [D]
        count = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        factor = squares = None
        if self.factor is not None and other.factor is not None:
            factor = at_most_square(torch.cat([self.factor, other.factor, row[None]]))  # [k, D]
        if self.squares is not None and other.squares is not None:
            squares = self.squares + other.squares + row.square()
        return Moments(count, mean, factor, squares)

    def cross_row(self, other: Moments) -> Tensor:
        """[D] the row whose outer product the scatter of both samples has beyond the sum of the two scatters."""
        return (other.mean - self.mean) * (self.count * other.count / (self.count + other.count)) ** 0.5

    def moved(self, matrix: Tensor, shift: Tensor) -> Moments:
        """Of `matrix x + shift` in the place of x: `matrix` [D', D], `shift` [D'].

        Exact for the scatter. A diagonal is moved as that of a diagonal matrix, and of a low rank's residual the mean variance is kept.
        """
        low_rank = self.low_rank
        if low_rank is not None:
            share = float(matrix.square().sum()) / len(matrix)
            low_rank = LowRank(low_rank.factor @ matrix.T, low_rank.residual * share)
        return Moments(
            self.count,
            matrix @ self.mean + shift,
            None if self.factor is None else at_most_square(self.factor @ matrix.T),
            None if self.squares is None else matrix.square() @ self.squares,
            low_rank,
        )

    def truncated(self, width: int) -> Moments:
        """Of the first `width` dimensions."""
        low_rank = self.low_rank
        return Moments(
            self.count,
            self.mean[:width].clone(),
            None if self.factor is None else at_most_square(self.factor[:, :width].clone()),
            None if self.squares is None else self.squares[:width].clone(),
            None if low_rank is None else replace(low_rank, factor=low_rank.factor[:, :width].clone()),
        )


def laid_out(tensor: Tensor) -> Tensor:
    """Row by row, at the beginning of memory of its own."""
    whole = tensor.is_contiguous() and not tensor.storage_offset() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def scatter_factor(centred: Tensor) -> Tensor:
    """[k, D] with the same Gram matrix as `centred` [n, D], whose columns sum to zero: k = min(n - 1, D) rows.

    A Householder reflection that turns the vector of ones into the first axis puts the columns' sums, which are zero, into the first row.
    """
    n = len(centred)
    if n == 1:
        return centred[:0]
    normal = centred.new_full((n, 1), n**-0.5)
    normal[0] -= 1.0
    reflected = centred - normal @ (normal.T @ centred) * (2.0 / normal.square().sum())
    return at_most_square(reflected[1:])


def at_most_square(factor: Tensor) -> Tensor:
    """The factor, or where it has more rows than columns, a square one with the same Gram matrix."""
    if len(factor) <= factor.shape[1]:
        return factor
    return torch.linalg.qr(factor, mode="r").R  # [D, D]


def low_rank_of(factor: Tensor, count: int, rank: int) -> LowRank:
    """The covariance `factor^T factor / (count - 1)` with its `rank` largest directions and one variance for all others."""
    width = factor.shape[1]
    rank = min(rank, width - 1)
    _, singular, directions = torch.linalg.svd(factor, full_matrices=False)  # [k], [k, D]
    values = singular.square() / (count - 1)
    largest, directions = values[:rank], directions[:rank]  # [r], [r, D]
    residual = float((values.sum() - largest.sum()).clamp_min(0.0)) / (width - rank)
    return LowRank(directions * (largest - residual).clamp_min(0.0).sqrt()[:, None], residual)
