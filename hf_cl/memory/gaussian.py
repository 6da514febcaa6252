"""Features of a class drawn from the Gaussian of its statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_cl.memory.class_statistics import ClassStatistics


class GaussianMemory:
    """Draws from N(mean, covariance) of each class.

    Args:
        statistics: with scatters of single classes.
    """

    def __init__(self, statistics: ClassStatistics) -> None:
        self.statistics = statistics

    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """[count, D] float64. Raises as `ClassStatistics.sample`."""
        return self.statistics.sample(label, count, generator)
