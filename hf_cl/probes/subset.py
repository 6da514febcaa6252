"""Part of a data set, for probes that look at some of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_cl.contracts import ImageDataset, source_of


class Subset:
    """Some images of a data set, in its order.

    Args:
        data: the whole.
        positions: in it, ascending.
    """

    def __init__(self, data: ImageDataset, positions: Sequence[int]) -> None:
        self.data, self.positions = data, positions
        self.labels, self.indices = [data.labels[i] for i in positions], [data.indices[i] for i in positions]
        self.source = source_of(data)  # the test's own pixels serve

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.data[self.positions[position]]
