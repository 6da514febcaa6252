"""Features that a memory keeps, beside which no image is kept.

Letters: m rows, D feature width; of a head that reads tokens the rows are maps [H, W, D].
"""

from __future__ import annotations

from typing import Any

from hf_cl.contracts import FeatureSet
from hf_cl.memory.image_arrays import ImageArrays


class KeptFeatures(ImageArrays):
    """A data set whose items are rows of features: a features phase joins them to those that it computes of a session's images.

    Args:
        rows: features [m, D], labels [m] and sample ids [m], on the CPU.
    """

    def __init__(self, rows: FeatureSet) -> None:
        self.rows = rows
        super().__init__(rows.labels.numpy(), rows.index.numpy())

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Raises TypeError: nothing but features is kept."""
        raise TypeError("Of this item only features are kept: it can be trained on in a features phase alone.")
