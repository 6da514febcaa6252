"""Digests of decoded pictures: equal ones are the same picture, pixel by pixel, however and wherever it is stored.

Letters: n pictures.
"""

from __future__ import annotations

import hashlib
import weakref

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.image_store import ImageStore

UNKNOWN = np.zeros(2, dtype=np.uint64)
"""In the place of the digest of a picture that nobody has decoded."""
_KNOWN: weakref.WeakKeyDictionary[ImageStore, NDArray[np.uint64]] = weakref.WeakKeyDictionary()


def pixel_digest(image: Image.Image) -> NDArray[np.uint64]:
    """[2] the first 128 bits of the SHA-256 of a picture's size and its 8-bit RGB pixels."""
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return np.frombuffer(digest.digest()[:16], dtype="<u8").astype(np.uint64)


def digests_of_store(store: ImageStore) -> NDArray[np.uint64]:
    """[rows, 2] what is known of a store's pictures, to be read and filled in; it lives as long as the store."""
    if store not in _KNOWN:
        _KNOWN[store] = np.zeros((len(store), 2), dtype=np.uint64)
    return _KNOWN[store]


def pixel_digests(images: ImageSet) -> NDArray[np.uint64]:
    """[n, 2] those of a set; `UNKNOWN` where the picture was not decoded when the data were looked at."""
    return digests_of_store(images.store)[images.indices]
