"""The handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ArrayStore
from hf_cl.scenarios.splits import Splits


def read_digits() -> Splits:
    """1,797 grey images of 8x8 pixels in 10 classes, as RGB of that size; no split of their own.

    Source: the test part of the UCI set "Optical recognition of handwritten digits" (Alpaydin and Kaynak 1998), values 0..16.
    """
    found = find_spec("sklearn")  # its file alone: to import scikit-learn takes a second of processor time
    assert found is not None and found.origin is not None
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",")  # [n, 65]: 8 x 8 values and the digit
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # [n, 8, 8]
    return Splits({"digits": ImageSet(ArrayStore(pixels), rows[:, -1].astype(np.int64))}, tuple("0123456789"))
