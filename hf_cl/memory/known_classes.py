"""What is known of classes by their moments: means, scatters and covariances, and draws from them.

Shapes: D width of the features (or embedding), c chosen classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hf_cl.memory.moments import LowRank, Moments, low_rank_of

KINDS = frozenset({"pooled", "diag", "low_rank", "full"})
"""What may be kept beyond counts and means: one summed scatter of all classes, each class's variances, its covariance as a few directions
and one variance, its whole scatter."""


class KnownClasses:
    """The reading half of `ClassStatistics`: whatever was counted, it says what follows from it. float64 on the CPU.

    Args:
        kinds: of `KINDS`.
        rank: of the kind "low_rank".

    Raises ValueError for an unknown kind.
    """

    def __init__(self, kinds: Iterable[str], rank: int) -> None:
        self.kinds, self.rank = frozenset(kinds), rank
        if not self.kinds <= KINDS:
            raise ValueError(f"ClassStatistics keeps {', '.join(sorted(KINDS))}, got {', '.join(sorted(self.kinds - KINDS))}.")
        self._moments: dict[int, Moments] = {}
        self._pooled: Tensor | None = None  # [D, D], the sum of the classes' scatters

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes seen so far, ascending."""
        return tuple(sorted(self._moments))

    def count(self, label: int) -> int:
        """How many samples of the class were seen; 0 for a class that was not."""
        return self._moments[label].count if label in self._moments else 0

    def images(self, classes: Iterable[int]) -> int:
        """How many samples of these classes were seen."""
        return sum(map(self.count, classes))

    def mean(self, label: int) -> Tensor:
        """[D] float64. Raises KeyError for a class that has not been seen."""
        return self._of(label).mean

    def means(self, classes: Iterable[int]) -> Tensor:
        """[c, D] float64. Raises KeyError for a class that has not been seen."""
        return torch.stack([self._of(label).mean for label in classes])

    def factor(self, label: int) -> Tensor:
        """[k, D] float64, k = min(n - 1, D): `factor^T factor` is the class's scatter.

        Raises KeyError for a class that has not been seen, ValueError where scatters are not kept.
        """
        factor = self._of(label).factor
        if factor is None:
            raise self._not_kept("full")
        return factor

    def covariance(self, label: int) -> Tensor:
        """[D, D] float64, divided by n - 1; of the richest kind that is kept.

        Raises KeyError for a class that has not been seen, ValueError for one of a single sample, and where nothing of it is kept.
        """
        moments = self._of(label)
        if moments.count < 2:
            raise ValueError(f"Class {label} has one sample: it has no covariance. `usable_covariance` takes the mean one of all classes.")
        if moments.factor is not None:
            return moments.factor.T @ moments.factor / (moments.count - 1)
        if moments.low_rank is not None:
            return _dense(moments.low_rank)
        if moments.squares is not None:
            return torch.diag(moments.squares / (moments.count - 1))
        raise self._not_kept("full")

    def variances(self, label: int) -> Tensor:
        """[D] float64: the diagonal of the covariance. Raises as `covariance`."""
        moments = self._of(label)
        if moments.squares is not None and moments.count > 1:
            return moments.squares / (moments.count - 1)
        return self.covariance(label).diagonal()

    def low_rank(self, label: int, rank: int | None = None) -> LowRank:
        """The covariance as its largest directions and one variance for the others; `rank`: the store's where it is not given.

        Raises as `covariance`.
        """
        moments = self._of(label)
        if moments.low_rank is not None:
            return moments.low_rank
        if moments.count < 2:
            raise ValueError(f"Class {label} has one sample: it has no covariance.")
        return low_rank_of(self.factor(label), moments.count, rank or self.rank)

    def pooled_scatter(self) -> Tensor:
        """[D, D] float64: the sum of all classes' scatters.

        Raises ValueError where neither "pooled" nor "full" is kept, or nothing was seen.
        """
        if self._pooled is not None:
            return self._pooled
        if "full" not in self.kinds:
            raise self._not_kept("pooled")
        return self._summed()

    def _summed(self) -> Tensor:
        return torch.stack([f.T @ f for f in (self.factor(label) for label in self.classes)]).sum(0)

    def pooled_covariance(self) -> Tensor:
        """[D, D] float64: the sum of scatters divided by samples minus classes. NaN where every class has one sample. Raises as above."""
        samples = sum(moments.count for moments in self._moments.values())
        degrees = samples - len(self._moments)
        scatter = self.pooled_scatter()
        return scatter / degrees if degrees else torch.full_like(scatter, torch.nan)

    def usable_covariance(self, label: int, *, eps: float = 1e-4, shrinkage: float = 0.0) -> Tensor:
        """[D, D] float64: `(1 - shrinkage) Sigma + (shrinkage tr(Sigma) / D + eps) I`, where Sigma of a class of one sample is the pooled
        one. Raises as `covariance` and `pooled_covariance`."""
        sigma = self.covariance(label) if self.count(label) > 1 else self.pooled_covariance()
        identity = torch.eye(len(sigma), dtype=torch.float64)
        return (1 - shrinkage) * sigma + (shrinkage * sigma.trace() / len(sigma) + eps) * identity

    def nearest(self, label: int, among: Sequence[int]) -> int:
        """The class of `among` whose mean is nearest to that of `label` (Euclidean); of equal ones the smallest position."""
        among = sorted(among)
        return among[int((self.means(among) - self.mean(label)).square().sum(1).argmin())]

    def sample(
        self, label: int, count: int, generator: torch.Generator, *, mean_scale: float = 1.0, eps: float = 1e-4, shrinkage: float = 0.0
    ) -> Tensor:
        """[count, D] float64 draws from N(mean_scale * mean, `usable_covariance`), of the richest kind that is kept.

        A covariance F^T F + diag(v) needs no Cholesky factor: a draw is F^T z + sqrt(v) z'. So no matrix of D x D is made, whatever n is,
        and none can fail to be positive definite. The generator is one of the CPU: the same draws everywhere.
        Raises as `covariance` and `pooled_covariance`.
        """
        moments = self._of(label)
        factor, variances = self._spread(moments)  # [k, D], [D]
        width = len(moments.mean)
        trace = factor.square().sum() + variances.sum()
        variances = (1 - shrinkage) * variances + shrinkage * trace / width + eps
        along = torch.randn(count, len(factor), dtype=torch.float64, generator=generator) @ factor  # [count, D]
        rest = torch.randn(count, width, dtype=torch.float64, generator=generator)  # [count, D]
        return mean_scale * moments.mean + (1 - shrinkage) ** 0.5 * along + variances.sqrt() * rest

    def _spread(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """[k, D] and [D]: the covariance is `factor^T factor + diag(variances)`."""
        none, nothing = torch.zeros_like(moments.mean), moments.mean.new_zeros(0, len(moments.mean))
        if moments.count < 2:
            values, vectors = torch.linalg.eigh(self.pooled_covariance())  # [D], [D, D]
            return vectors.T * values.clamp_min(0.0).sqrt()[:, None], none
        if moments.factor is not None:
            return moments.factor / (moments.count - 1) ** 0.5, none
        if moments.low_rank is not None:
            return moments.low_rank.factor, torch.full_like(none, moments.low_rank.residual)
        if moments.squares is not None:
            return nothing, moments.squares / (moments.count - 1)
        raise self._not_kept("full")

    def _of(self, label: int) -> Moments:
        if label not in self._moments:
            raise KeyError(f"no statistics of class {label}; there are some of {list(self.classes)}")
        return self._moments[label]

    def _not_kept(self, kind: str) -> ValueError:
        kept = ", ".join(sorted(self.kinds)) or "counts and means only"
        return ValueError(f"These statistics keep {kept}, not {kind!r}: a head or part declares what it needs in `statistics`.")


def _dense(low_rank: LowRank) -> Tensor:  # [D, D]
    width = low_rank.factor.shape[1]
    return low_rank.factor.T @ low_rank.factor + low_rank.residual * torch.eye(width, dtype=torch.float64)
