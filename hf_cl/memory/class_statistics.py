"""Count, mean and covariance of features, per class: what a run keeps of its classes instead of images.

Shapes: D width of the features (or embedding), n samples, C classes with samples, c chosen classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hf_cl.memory.moments import LowRank, Moments, low_rank_of

logger = logging.getLogger(__name__)

KINDS = frozenset({"pooled", "diag", "low_rank", "full"})
"""What may be kept beyond counts and means: one summed scatter of all classes, each class's variances, its covariance as a few directions
and one variance, its whole scatter."""


class ClassStatistics:
    """Per-class count and mean, and the kinds of scatter that somebody asks for; float64 on the CPU, mergeable over batches, sessions and
    processes.

    Classes are the positions of their names in order of arrival, as everywhere. A class that comes again is merged, except where its
    covariance is kept as "low_rank" alone: that one is final.

    Args:
        kinds: of `KINDS`. Bytes: "full" 8 D min(n - 1, D) a class, exact; "low_rank" 8 D rank a class; "diag" 8 D a class; "pooled" 8 D^2
            once; counts and means 8 D a class.
        rank: of the kind "low_rank".

    Raises ValueError for an unknown kind.
    """

    def __init__(self, kinds: Iterable[str] = (), *, rank: int = 32) -> None:
        self.kinds, self.rank = frozenset(kinds), rank
        if not self.kinds <= KINDS:
            raise ValueError(f"ClassStatistics keeps {', '.join(sorted(KINDS))}, got {', '.join(sorted(self.kinds - KINDS))}.")
        self._moments: dict[int, Moments] = {}
        self._pooled: Tensor | None = None  # [D, D], the sum of the classes' scatters
        self._sessions: list[int] = []
        self._before: ClassStatistics | None = None
        self._taken_with, self._moved = "", False

    @staticmethod
    def of_classes(kinds: Iterable[str], moments: Mapping[int, Moments], pooled: Tensor | None) -> ClassStatistics:
        """From moments of classes, and the sum of their scatters where that is kept."""
        statistics = ClassStatistics(kinds)
        statistics._moments, statistics._pooled = dict(moments), pooled
        return statistics

    # What was seen
    @property
    def classes(self) -> tuple[int, ...]:
        """The classes seen so far, ascending."""
        return tuple(sorted(self._moments))

    @property
    def sessions(self) -> tuple[int, ...]:
        """Ids of the sessions that were counted, in order."""
        return tuple(self._sessions)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, index: Tensor | None = None) -> None:
        """Add samples: `features` [n, D] on any device and of any float dtype, `labels` [n] integers, `index` [n] sample ids for messages.

        Raises ValueError for features that are not finite, naming the class and the samples, and for features of another width.
        """
        features, labels = features.cpu().double(), labels.cpu()
        self._check(features, labels, index)
        for label in labels.unique().tolist():
            self._add(label, Moments.of(features[labels == label]))

    def count_session(self, session: int, features: Tensor, labels: Tensor, index: Tensor | None = None, *, taken_with: str = "") -> None:
        """`update`, once per session: a second call for the same id changes nothing. `before` remembers what was there.

        `taken_with` names the weights that the features were taken with. Where they have changed since the last session and nobody has
        moved the statistics along (`apply_linear`), those of earlier classes are stale, which is a warning.
        """
        if session in self._sessions:
            return
        before = self.copy()
        self.update(features, labels, index)
        if self._sessions and taken_with != self._taken_with and not self._moved:
            logger.warning(
                "The adapter has trained since the statistics of %d earlier classes were taken: they are stale. A drift map carries them "
                "along (`drift_map: ridge`), and `adapt_sessions: first` keeps the features where they are.",
                len(before.classes),
            )
        self._before, self._taken_with, self._moved = before, taken_with, False
        self._sessions.append(session)

    def before(self, session: int) -> ClassStatistics:
        """A copy of the statistics as they were before `session`, the last one that was counted.

        Raises KeyError where another session was the last.
        """
        if self._before is None or self._sessions[-1:] != [session]:
            raise KeyError(f"session {session} is not the last that was counted; counted: {self._sessions}")
        return self._before.copy()

    def merge(self, other: ClassStatistics) -> None:
        """Add what `other` has seen, for instance on another process. Its sessions become counted ones.

        Raises ValueError where the two keep different things.
        """
        if self.kinds != other.kinds:
            mine, theirs = (", ".join(sorted(kinds)) or "means alone" for kinds in (self.kinds, other.kinds))
            raise ValueError(f"ClassStatistics: one side keeps {mine}, the other {theirs}; they cannot be merged.")
        for label, moments in other._moments.items():
            if other._pooled is not None:
                self._pool(label, moments)
            self._moments[label] = self._merged(label, moments)
        if other._pooled is not None:
            self._pooled = other._pooled if self._pooled is None else self._pooled + other._pooled
        self._sessions += [session for session in other._sessions if session not in self._sessions]

    def _add(self, label: int, moments: Moments) -> None:
        """Add moments with an exact scatter."""
        assert moments.factor is not None
        if "pooled" in self.kinds:
            scatter = moments.factor.T @ moments.factor  # [D, D]
            self._pooled = scatter if self._pooled is None else self._pooled + scatter
            self._pool(label, moments)
        squares = moments.factor.square().sum(0) if "diag" in self.kinds else None
        low_rank = None
        if "low_rank" in self.kinds and "full" not in self.kinds and moments.count > 1:
            low_rank = low_rank_of(moments.factor, moments.count, self.rank)
        factor = moments.factor if "full" in self.kinds else None
        self._moments[label] = self._merged(label, replace(moments, factor=factor, squares=squares, low_rank=low_rank))

    def _pool(self, label: int, moments: Moments) -> None:
        """Add the cross term of a class that comes again to the summed scatter."""
        known = self._moments.get(label)
        if known is not None:
            row = known.cross_row(moments)  # [D]
            cross = torch.outer(row, row)  # [D, D]
            self._pooled = cross if self._pooled is None else self._pooled + cross

    def _merged(self, label: int, moments: Moments) -> Moments:
        known = self._moments.get(label)
        if known is None:
            return moments
        if "low_rank" in self.kinds and "full" not in self.kinds:
            raise ValueError(
                f"Class {label} has its covariance of low rank already, which cannot take more samples; "
                'a run whose classes come again needs statistics of the kind "full".'
            )
        return known.merge(moments)

    def _check(self, features: Tensor, labels: Tensor, index: Tensor | None) -> None:
        finite = features.isfinite().all(1)  # [n]
        if not finite.all():
            rows = (~finite).nonzero()[:, 0]
            label = int(labels[rows[0]])
            named = (rows if index is None else index.cpu()[rows])[:8].tolist()
            raise ValueError(f"Features of class {label} are not finite: samples {named}. Does the model overflow in half precision?")
        for moments in list(self._moments.values())[:1]:
            if len(moments.mean) != features.shape[1]:
                raise ValueError(f"Features of width {features.shape[1]} came to statistics of width {len(moments.mean)}.")

    def copy(self) -> ClassStatistics:
        """An independent store; tensors are shared, since none is ever changed in place."""
        return self.subset(self.classes)

    def subset(self, classes: Iterable[int]) -> ClassStatistics:
        """The statistics of some classes.

        Raises KeyError for a class that has not been seen.
        """
        part = ClassStatistics(self.kinds, rank=self.rank)
        part._moments = {label: self._of(label) for label in classes}
        part._sessions = list(self._sessions)
        if part._moments.keys() == self._moments.keys():
            part._pooled = self._pooled
        elif "pooled" in self.kinds and "full" in self.kinds:
            part._pooled = part._summed()
        return part

    def regrouped(self, groups: Sequence[Sequence[int]]) -> ClassStatistics:
        """Of new classes 0, 1, ..., each all samples of a group of these ones; classes in no group go. Exact.

        Raises KeyError for a class that has not been seen; ValueError where scatters are kept as one sum alone and a class goes, and where
        covariances of low rank would have to be joined.
        """
        made = ClassStatistics(self.kinds, rank=self.rank)
        pooled = self._pooled
        for position, group in enumerate(groups):
            moments = self._of(group[0])
            for label in group[1:]:
                if "low_rank" in self.kinds and "full" not in self.kinds:
                    raise ValueError('Covariances of low rank cannot be joined; statistics of the kind "full" can.')
                row = moments.cross_row(self._of(label))  # [D]
                pooled = None if pooled is None else pooled + torch.outer(row, row)
                moments = moments.merge(self._of(label))
            made._moments[position] = moments
        if pooled is not None and sum(map(len, groups)) < len(self._moments):
            if "full" not in self.kinds:
                raise ValueError("Scatters are kept as one sum of all classes, which cannot forget one.")
            pooled = made._summed()
        made._pooled, made._sessions = pooled, list(self._sessions)
        made._taken_with, made._moved = self._taken_with, self._moved
        return made

    # What is known of a class
    def count(self, label: int) -> int:
        """How many samples of the class were seen; 0 for a class that was not."""
        return self._moments[label].count if label in self._moments else 0

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

    # Features that move
    def apply_linear(self, matrix: Tensor | None, shift: Tensor, classes: Iterable[int] | None = None) -> None:
        """Move the statistics of `classes` (all by default) as features x move that become `matrix x + shift`.

        Args:
            matrix: [D, D]; None: the identity, so that scatters stay.
            shift: [D].

        Raises ValueError where only some classes move by a matrix while their scatters are kept as one sum alone.
        """
        chosen = self.classes if classes is None else tuple(classes)
        everything = set(chosen) == self._moments.keys()
        shift = shift.cpu().double()
        self._moved = True
        if matrix is None:
            self._moments = self._moments | {c: replace(self._of(c), mean=self._of(c).mean + shift) for c in chosen}
            return
        if self._pooled is not None and not everything and "full" not in self.kinds:
            raise ValueError('The scatter of some classes cannot be told from the sum of all; statistics of the kind "full" can.')
        matrix = matrix.cpu().double()
        self._moments = self._moments | {c: self._of(c).moved(matrix, shift) for c in chosen}
        if self._pooled is not None:
            self._pooled = matrix @ self._pooled @ matrix.T if everything else self._summed()

    def truncate(self, width: int) -> None:
        """Keep the first `width` dimensions."""
        self._moments = {label: moments.truncated(width) for label, moments in self._moments.items()}
        self._pooled = None if self._pooled is None else self._pooled[:width, :width].clone()

    # Saving
    @property
    def moments(self) -> Mapping[int, Moments]:
        """Class -> what is kept of it. An entry is replaced, never changed, so whoever has saved one knows it again."""
        return MappingProxyType(self._moments)

    def summary(self) -> dict[str, Any]:
        """What is of all classes together: plain values, and the summed scatter. With `moments` it is the whole store."""
        return {
            "kinds": sorted(self.kinds),
            "rank": self.rank,
            "sessions": list(self._sessions),
            "taken_with": self._taken_with,
            "moved": self._moved,
            "pooled": self._pooled,
        }

    def restore(self, summary: Mapping[str, Any], moments: Mapping[int, Moments]) -> None:
        """Become the store that had this `summary` and these `moments`."""
        self.kinds, self.rank, self._sessions = frozenset(summary["kinds"]), summary["rank"], list(summary["sessions"])
        self._taken_with, self._moved = summary["taken_with"], summary["moved"]
        self._pooled, self._before = summary["pooled"], None
        self._moments = dict(moments)

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
