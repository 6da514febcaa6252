"""What data sets of a memory share: labels and sample ids as arrays, known without decoding an image.

Letters: n images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class ImageArrays:
    """The part of `hf_cl.contracts.ImageDataset` that needs no picture.

    Args:
        labels, indices: [n] each.
    """

    def __init__(self, labels: ArrayLike, indices: ArrayLike) -> None:
        self._labels, self._indices = np.asarray(labels, dtype=np.int64), np.asarray(indices, dtype=np.int64)

    @property
    def labels(self) -> Any:
        """int64 array."""
        return self._labels

    @property
    def indices(self) -> Any:
        """int64 array."""
        return self._indices

    def __len__(self) -> int:
        return len(self._labels)
