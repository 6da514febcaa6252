"""Count, mean and covariance of features, per class.

Shapes: D width of the features (or embedding), n samples, k classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Moments:
    count: int
    mean: Tensor  # [D] float64
    scatter: Tensor | None  # [D, D] float64, sum of (x - mean)(x - mean)^T

    @staticmethod
    def of(features: Tensor, covariance: bool) -> _Moments:
        mean = features.mean(0)  # [D]
        centred = features - mean  # [n, D]
        return _Moments(len(features), mean, centred.T @ centred if covariance else None)

    def merge(self, other: _Moments) -> _Moments:
        """Moments of both samples together.

        Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", Stanford STAN-CS-79-773, 1979.
        """
        count = self.count + other.count
        difference = other.mean - self.mean  # [D]
        mean = self.mean + difference * (other.count / count)
        if self.scatter is None or other.scatter is None:
            return _Moments(count, mean, None)
        between = torch.outer(difference, difference) * (self.count * other.count / count)  # [D, D]
        return _Moments(count, mean, self.scatter + other.scatter + between)


class ClassStatistics:
    """Per-class count, mean and covariance, accumulated in float64 on the CPU and mergeable: over batches, sessions and processes.

    Classes are the positions of their names in order of arrival, as everywhere.

    Args:
        covariance: whether covariances are kept; they take 8 D^2 bytes a class (4.7 MB at D = 768), means alone 8 D.
    """

    def __init__(self, *, covariance: bool = True) -> None:
        self.keeps_covariance = covariance
        self._moments: dict[int, _Moments] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes seen so far, ascending."""
        return tuple(sorted(self._moments))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add samples: `features` [n, D] on any device, `labels` [n] integers."""
        features, labels = features.cpu(), labels.cpu()
        for label in labels.unique().tolist():
            self._add(label, _Moments.of(features[labels == label].double(), self.keeps_covariance))

    def merge(self, other: ClassStatistics) -> None:
        """Add what `other` has seen, for instance on another process.

        Raises ValueError where only one of the two keeps covariances.
        """
        if self.keeps_covariance != other.keeps_covariance:
            raise ValueError("ClassStatistics: one side keeps covariances and the other does not; they cannot be merged.")
        for label, moments in other._moments.items():
            self._add(label, moments)

    def _add(self, label: int, moments: _Moments) -> None:
        known = self._moments.get(label)
        self._moments[label] = moments if known is None else known.merge(moments)

    def subset(self, classes: Iterable[int]) -> ClassStatistics:
        """The statistics of some classes; tensors are shared, since none is ever changed in place.

        Raises KeyError for a class that has not been seen.
        """
        part = ClassStatistics(covariance=self.keeps_covariance)
        part._moments = {label: self._of(label) for label in classes}
        return part

    def count(self, label: int) -> int:
        """How many samples of the class were seen; 0 for a class that was not."""
        return self._moments[label].count if label in self._moments else 0

    def mean(self, label: int) -> Tensor:
        """[D] float64. Raises KeyError for a class that has not been seen."""
        return self._of(label).mean

    def means(self, classes: Iterable[int]) -> Tensor:
        """[k, D] float64. Raises KeyError for a class that has not been seen."""
        return torch.stack([self._of(label).mean for label in classes])

    def covariance(self, label: int) -> Tensor:
        """[D, D] float64, divided by n - 1; zero for a class of one sample.

        Raises KeyError for a class that has not been seen, ValueError where covariances are not kept.
        """
        moments = self._of(label)
        if moments.scatter is None:
            raise ValueError("ClassStatistics(covariance=False) keeps counts and means only.")
        return moments.scatter / max(moments.count - 1, 1)

    def _of(self, label: int) -> _Moments:
        if label not in self._moments:
            raise KeyError(f"no statistics of class {label}; there are some of {list(self.classes)}")
        return self._moments[label]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        classes = {label: {"count": m.count, "mean": m.mean, "scatter": m.scatter} for label, m in self._moments.items()}
        return {"covariance": self.keeps_covariance, "classes": classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.keeps_covariance = state["covariance"]
        self._moments = {label: _Moments(m["count"], m["mean"], m["scatter"]) for label, m in state["classes"].items()}
