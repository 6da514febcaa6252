"""Nearly the same picture: stored again, resized, slightly cut.

Two keys must agree, since neither is enough alone: a difference hash of 64 bits, and the cosine of features. From which cosine on two
pictures are one is learned from the user's own pictures, which are stored again and recognised or not.

Shapes: n, m pictures, D feature width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_cl.contracts import ImageDataset
from hf_cl.scenarios import ImageSet

Keys = tuple[NDArray[np.uint64], NDArray[np.floating]]
"""Hashes [n] and unit features [n, D] of some pictures."""
HASH_BITS = 8
"""Bits in which the hashes of two pictures may differ."""
BLOCK = 1 << 22
"""Pairs of hashes that are compared at once."""
PAIRS = 1 << 17
"""Pairs whose cosine is computed at once."""
QUANTILE = 0.05
"""Share of stored-again pictures that the threshold passes over."""
QUALITY, SHRINK = 60, 0.75
"""How a picture is stored again: JPEG of this quality, at this share of its sides and back."""


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """[8, 9] grey."""
    return np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))


def difference_hash(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[n, 8, 9] grey -> [n]: a bit for each pixel and its right neighbour, whether that is lighter (Krawetz, "Kind of like that", 2013)."""
    bits = (thumbnails[:, :, 1:] > thumbnails[:, :, :-1]).reshape(len(thumbnails), 64)  # [n, 64]
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def stored_again(image: Image.Image) -> Image.Image:
    """The picture as somebody else might hold it."""
    small = image.resize([max(1, round(SHRINK * side)) for side in image.size], Image.Resampling.BICUBIC)
    file = BytesIO()
    small.save(file, format="JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB").resize(image.size, Image.Resampling.BICUBIC)


class StoredAgain:
    """Some pictures of a data set, each stored again. Fulfils `hf_cl.contracts.ImageDataset`.

    Args:
        data: the pictures.
        positions: which of them.
    """

    def __init__(self, data: ImageDataset, positions: list[int]) -> None:
        self.data, self.positions = data, positions
        self.labels, self.indices = [int(data.labels[i]) for i in positions], list(range(len(positions)))
        self.hashes = np.zeros(len(positions), dtype=np.uint64)
        """Filled in as pictures are asked for."""

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> dict[str, Any]:
        image = stored_again(self.data[self.positions[position]]["image"])
        self.hashes[position] = difference_hash(thumbnail(image)[None])[0]
        return {"image": image, "label": self.labels[position], "index": position}


def unit(features: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.float64]:
    """[n, D] minus `mean` [D], at unit length."""
    rows = features.astype(np.float64) - mean
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def near_threshold(copies: NDArray[np.floating], foreign: NDArray[np.floating], limit: float) -> tuple[float, float]:
    """From which cosine on two pictures are one: (calibrated, raised).

    Calibrated is the 5 % quantile of `copies` [n], the cosines of pictures with themselves stored again. Where more than `limit` of
    `foreign` [m], each test picture's largest cosine to a training picture of another class (-1 where there is none), lie above it, it is
    raised until they do not. A pair is one picture where its cosine is above the threshold.
    """
    calibrated = float(np.quantile(copies, QUANTILE))
    if not len(foreign):
        return calibrated, calibrated
    allowed = int(limit * len(foreign))
    return calibrated, max(calibrated, float(np.sort(foreign)[::-1][allowed])) if allowed < len(foreign) else calibrated


def hash_pairs(
    first: NDArray[np.uint64], second: NDArray[np.uint64] | None = None, bits: int = HASH_BITS
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of pairs whose hashes differ in at most `bits`, piece by piece; of one set the pairs i < j where `second` is None."""
    others = first if second is None else second
    if not len(others):
        return
    step = max(1, BLOCK // len(others))
    for start in range(0, len(first), step):
        rows = first[start : start + step]
        columns = others[start:] if second is None else others
        close = np.bitwise_count(rows[:, None] ^ columns[None]) <= bits  # [rows, columns]
        if second is None:
            close &= np.arange(len(columns))[None] > np.arange(len(rows))[:, None]
        i, j = np.nonzero(close)
        yield i + start, j + (start if second is None else 0)


def near_pairs(
    first: Keys, second: Keys | None = None, *, above: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
    """Pairs that the hashes allow and whose cosine is larger than `above`: positions in both, and the cosine.

    Args:
        first, second: hashes [n] and unit features [n, D]; without `second` the pairs inside of `first`.
        above: kept are the pairs with a larger cosine, as there may be many more.
    """
    left, right, cosines = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    others = first if second is None else second
    for i, j in hash_pairs(first[0], None if second is None else second[0]):
        for start in range(0, len(i), PAIRS):
            a, b = i[start : start + PAIRS], j[start : start + PAIRS]
            found = np.einsum("nd,nd->n", first[1][a], others[1][b])  # [pairs]
            left.append(a[found > above])
            right.append(b[found > above])
            cosines.append(found[found > above])
    return np.concatenate(left), np.concatenate(right), np.concatenate(cosines)


class Hashes:
    """Difference hashes of what is decoded, by store and row."""

    def __init__(self) -> None:
        self._lock, self._by_store = threading.Lock(), dict[int, tuple[Any, NDArray[np.uint64]]]()

    def see(self, store: Any, row: int, image: Image.Image) -> None:
        """Called by several threads."""
        found = difference_hash(thumbnail(image)[None])[0]
        with self._lock:
            if id(store) not in self._by_store:  # held, or its id would be given away again
                self._by_store[id(store)] = store, np.zeros(len(store), dtype=np.uint64)
        self._by_store[id(store)][1][row] = found

    def of(self, images: ImageSet) -> NDArray[np.uint64]:
        return self._by_store[id(images.store)][1][images.indices]


def drawn(numbers: NDArray[np.int64], most: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """At most `most` of the numbers, in order."""
    return numbers if len(numbers) <= most else np.sort(draw.choice(numbers, most, replace=False))
