"""Class statistics under a feature map, which a head keeps itself: the trainer's store is of the features as they are.

Shapes: C classes, M width of the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.moments import Moments


class MapStore(nn.Module):
    """Counts, means and one summed scatter, in non-persistent buffers of float64: checkpointed, never saved with an adapter.

    Args:
        width: M.
    """

    counts: Tensor  # [C]
    means: Tensor  # [C, M]
    scatter: Tensor  # [M, M]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        for name, shape in (("counts", (0,)), ("means", (0, width)), ("scatter", (width, width))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64, device="cpu"), persistent=False)

    def grow(self, count: int) -> None:
        """By so many classes without images."""
        self.counts = torch.cat([self.counts, self.counts.new_zeros(count)])
        self.means = torch.cat([self.means, self.means.new_zeros(count, self.width)])

    def statistics(self) -> ClassStatistics:
        """A copy, to add to."""
        counts, means = self.counts.cpu(), self.means.cpu()
        classes = {c: Moments(int(n), means[c].clone()) for c, n in enumerate(counts) if n}
        pooled = self.scatter.cpu().clone() if classes else None
        return ClassStatistics.of_classes({"pooled"}, classes, pooled)

    def regroup(self, other: MapStore, groups: Sequence[Sequence[int]]) -> None:
        """Become `other` with a class for each group of its classes."""
        statistics = other.statistics().regrouped(groups)
        self.keep(statistics, statistics.pooled_scatter())

    def keep(self, statistics: ClassStatistics, scatter: Tensor) -> None:
        """Replace what is there."""
        for label in statistics.classes:
            self.counts[label] = statistics.count(label)
            self.means[label] = statistics.mean(label).to(self.means)
        self.scatter.copy_(scatter)
