"""Another data set: how many of this one's pictures are in it.

Shapes: n pictures, D feature width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_cl.contracts import ImageDataset
from hf_cl.data_check.features import Features
from hf_cl.data_check.near import Hashes, drawn, near_pairs, unit
from hf_cl.data_check.report import Against, NearKey, Overlap
from hf_cl.images import PixelStore
from hf_cl.run.look_at_pictures import picture_check
from hf_cl.scenarios import ImageSet, open_images
from hf_cl.scenarios.catalog import Catalog
from hf_cl.scenarios.pixel_digests import pixel_digests
from hf_cl.settings import RunSettings

LISTED = 20
"""Pairs that are listed of another data set."""


def pictures_elsewhere(
    dataset: str,
    sample: int,
    settings: RunSettings,
    pictures: Catalog,
    hashes: Hashes,
    rows: NDArray[np.float32],
    key: NearKey,
    features: Features,
    store: PixelStore,
) -> Against:
    """How many of these pictures, of a sample where there are more, are in the data set of that name."""
    other = open_images(dataset, skip_bad_images=settings.skip_bad_images, check=picture_check("all", store, seen=hashes.see))
    whole = [other.unsplit] if other.unsplit is not None else [other.train, other.test, *([other.validation] if other.validation else [])]
    looked = drawn(np.arange(len(pictures)), sample, np.random.default_rng(settings.seed))
    codes = np.concatenate([hashes.of(images) for images in pictures.sets])[looked]
    mean = rows[~pictures.tested].mean(0, dtype=np.float64)
    units, digests = unit(rows[looked], mean), pictures.digests[looked]
    pairs: dict[int, str] = {}
    for images in whole:
        theirs = {digest.tobytes(): position for position, digest in reversed([*enumerate(pixel_digests(images))])}
        for i, digest in enumerate(digests):
            if (position := theirs.get(digest.tobytes())) is not None:
                pairs.setdefault(i, images.describe(position))
        if key.tells:
            i, j = _alike_there((codes, units), images, hashes, features, mean, key.threshold)
            for mine, position in zip(i.tolist(), j.tolist(), strict=True):
                pairs.setdefault(mine, images.describe(position))
    overlap = Overlap.of(len(pairs), len(looked))
    assert overlap is not None
    listed = [(pictures.name(int(looked[i])), there) for i, there in sorted(pairs.items())[:LISTED]]
    return Against(other.name, overlap, listed)


def _alike_there(
    mine: tuple[NDArray[np.uint64], NDArray[np.float64]],
    images: ImageSet,
    hashes: Hashes,
    features: Features,
    mean: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions here and there of near copies; of the other data set only what the hashes allow goes through the backbone."""
    codes = hashes.of(images)
    none = np.zeros((len(images), 1))
    allowed = np.unique(near_pairs((mine[0], np.zeros((len(mine[0]), 1))), (codes, none), above=-1.0)[1])
    if not len(allowed):
        return allowed, allowed
    some: ImageDataset = images.subset(allowed)
    i, j, _ = near_pairs(mine, (codes[allowed], unit(features(some), mean)), above=threshold)
    return i, allowed[j]
