"""The handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ArrayStore
from hf_cl.scenarios.splits import Splits


def read_digits() -> Splits:
    """1,797 grey images of 8x8 pixels in 10 classes, as RGB of that size; no split of their own.

    Source: the test part of the UCI set "Optical recognition of handwritten digits" (Alpaydin and Kaynak 1998), values 0..16.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 (a second of processor time that other data sets need not wait for)

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [n, 8, 8]
    return Splits({"digits": ImageSet(ArrayStore(pixels), digits.target)}, tuple(str(name) for name in digits.target_names))
