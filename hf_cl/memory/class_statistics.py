"""Count, mean and covariance of features, per class: what a run keeps of its classes instead of images.

Shapes: D width of the features (or embedding), n samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hf_cl.memory.known_classes import KnownClasses
from hf_cl.memory.moments import Moments, low_rank_of

logger = logging.getLogger(__name__)


class ClassStatistics(KnownClasses):
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
        super().__init__(kinds, rank)
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
    def sessions(self) -> tuple[int, ...]:
        """Ids of the sessions that were counted, in order."""
        return tuple(self._sessions)

    @property
    def final(self) -> bool:
        """Whether a class's statistics take no more samples: a covariance of low rank alone cannot."""
        return "low_rank" in self.kinds and "full" not in self.kinds

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
        if self.final and moments.count > 1:
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
        if self.final:
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
                if self.final:
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
