"""A set of labelled images that decodes lazily: what scenarios cut into sessions.

Letters: n images, C classes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hf_cl.pictures import readable
from hf_cl.scenarios.image_store import ImageStore

NO_LABEL = -1
"""What readers put where a label is missing (the Hub's own mark, too)."""


class ImageSet:
    """Images of one split, in the order of their rows. Fulfils `hf_cl.contracts.ImageDataset`.

    Args:
        store: decodes rows of the split.
        labels: int [n].
        indices: int [n], row of each image in `store`: the stable sample id, whatever subset the image is in. None: all rows.
        domains: int [n], the domain of each image; None where it is not known.
    """

    def __init__(self, store: ImageStore, labels: ArrayLike, indices: ArrayLike | None = None, domains: ArrayLike | None = None) -> None:
        self.store = store
        self._domains: NDArray[np.int64] | None = None if domains is None else np.asarray(domains, dtype=np.int64)
        self._labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self._indices: NDArray[np.int64] = np.asarray(np.arange(len(store)) if indices is None else indices, dtype=np.int64)
        if self._labels.shape != self._indices.shape or self._labels.ndim != 1:
            raise ValueError(f"labels and indices must be two lists of one length, got {self._labels.shape} and {self._indices.shape}.")

    @property
    def labels(self) -> Any:
        """int64 array [n]."""
        return self._labels

    @property
    def indices(self) -> Any:
        """int64 array [n]: row in the split, unique, unchanged in every subset."""
        return self._indices

    @property
    def domains(self) -> Any:
        """int64 array [n]; None where the data do not say."""
        return self._domains

    @property
    def source(self) -> Any:
        """What `indices` count in: sets of one source that have an index in common have a picture in common."""
        return self.store

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """`{"image": RGB image, "label": int, "index": int}`. Raises UnreadableImageError, naming file or row, for a broken image."""
        return {"image": self.decode(position), "label": int(self._labels[position]), "index": int(self._indices[position])}

    def decode(self, position: int) -> Image.Image:
        """The image at `position` as 8-bit RGB. Raises UnreadableImageError."""
        row = int(self._indices[position])
        with readable(lambda: self.store.describe(row)):
            return self.store.decode(row)

    def describe(self, position: int) -> str:
        """File name, or split and row, of the image at `position`."""
        return self.store.describe(int(self._indices[position]))

    def content_hash(self, position: int) -> str:
        """A hash of the picture's bytes as they are stored, 32 hexadecimal digits; a copy has the same."""
        return hashlib.blake2b(self.store.content(int(self._indices[position])), digest_size=16).hexdigest()

    @property
    def file_names(self) -> list[str] | None:
        """File of each image, [n], relative to the data set's folder; None where the images are not files."""
        names = self.store.file_names
        return None if names is None else [names[int(row)] for row in self._indices]

    def subset(self, which: ArrayLike) -> ImageSet:
        """The images at integer positions, or those where a boolean mask [n] is true, in the order given."""
        chosen = np.asarray(which)
        chosen = chosen if chosen.dtype == bool else chosen.astype(np.int64)  # an empty list arrives as float
        return ImageSet(self.store, self._labels[chosen], self._indices[chosen], None if self._domains is None else self._domains[chosen])

    def positions_of(self, label: int) -> NDArray[np.int64]:
        """Positions of the images of one class, in order."""
        return np.flatnonzero(self._labels == label)

    def of_classes(self, labels: ArrayLike) -> ImageSet:
        """The images of some classes, in order."""
        return self.subset(np.isin(self._labels, np.asarray(labels, dtype=np.int64)))

    def relabel(self, new_labels: ArrayLike) -> ImageSet:
        """Label c becomes `new_labels[c]`; [C]."""
        return ImageSet(self.store, np.asarray(new_labels, dtype=np.int64)[self._labels], self._indices, self._domains)

    def in_domain(self, domain: int) -> ImageSet:
        """The same images, all of one domain."""
        return ImageSet(self.store, self._labels, self._indices, np.full(len(self), domain))

    def counts(self, num_classes: int) -> NDArray[np.int64]:
        """Images per class, [C]."""
        return np.bincount(self._labels, minlength=num_classes)
