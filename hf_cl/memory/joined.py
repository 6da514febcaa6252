"""A session's images with those of a memory behind them, as one data set.

Letters: n images of the session, m of the memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_cl.contracts import ImageDataset, domains_of, source_of
from hf_cl.memory.image_arrays import ImageArrays


class Joined(ImageArrays):
    """Two data sets as one, [n + m]. Fulfils `hf_cl.contracts.ImageDataset`.

    Args:
        own: the session's images.
        kept: images of a memory; their sample ids are none of `own`'s.
    """

    def __init__(self, own: ImageDataset, kept: ImageDataset) -> None:
        self.own, self.kept = own, kept
        super().__init__(np.concatenate([own.labels, kept.labels]), np.concatenate([own.indices, kept.indices]))

    @property
    def domains(self) -> Any:
        """int64 array [n + m]; None where one of them does not know its own."""
        both = [domains_of(self.own), domains_of(self.kept)]
        return None if any(found is None for found in both) else np.concatenate([np.asarray(found) for found in both])

    def __getitem__(self, position: int) -> dict[str, Any]:
        count = len(self.own)
        item = self.own[position] if position < count else self.kept[position - count]
        return {**item, "label": int(self._labels[position]), "index": int(self._indices[position])}


class JoinedOfOneSource(Joined):
    """Both are parts of one larger data set, so that no picture of it is decoded again."""

    @property
    def source(self) -> Any:
        return source_of(self.own)


def joined(own: ImageDataset, kept: ImageDataset | None) -> ImageDataset:
    """`own` alone where nothing is kept."""
    if kept is None or not len(kept):
        return own
    return (JoinedOfOneSource if source_of(own) is source_of(kept) else Joined)(own, kept)
