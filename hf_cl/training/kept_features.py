"""Features of test images, kept from session to session while nothing before the head changes.

A frozen backbone, an adapter that trains in session 0 alone, or one that rests: evaluation then costs the head.

Shapes: n images of a test that this process has, B batch, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import ImageDataset
from hf_cl.training.feature_shelf import FeatureShelf
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.kept_queries import KeptQueries, told


class FeatureBatch(NamedTuple):
    """Features of images of one or several tests; at most `eval_batch_size`."""

    tests: NDArray[np.int64]  # [B] which of the data sets
    positions: NDArray[np.int64]  # [B] in that data set
    features: Tensor  # [B, D] on the device
    labels: Tensor  # [B]


class _Part(NamedTuple):
    positions: NDArray[np.int64]
    features: Tensor
    labels: Tensor


class KeptFeatures:
    """Belongs to the evaluations of a run.

    Features are computed test by test, so that they do not depend on when: a run that was resumed, and computes those of all tests again,
    has the same bits.
    """

    def __init__(self, images: ImageStream) -> None:
        self.images = images
        self.digest: str | None = None
        """Of what lay before the head at the last evaluation; a resumed run sets it."""
        self.shelf: FeatureShelf | None = None
        """Where features of the present state are kept beyond the run."""
        self._tests: dict[int, tuple[ImageDataset, list[_Part]]] = {}

    def rests(self, digest: str) -> bool:
        """Whether nothing before the head has changed since the last evaluation, whose features are forgotten where it has.

        The first evaluation counts as one after which nothing has changed.
        """
        same = self.digest in (None, digest)
        if not same:
            self._tests.clear()
        self.digest = digest
        return same

    def batches(
        self, classifier: AnyClassifier, datasets: Sequence[ImageDataset], queries: KeptQueries | None = None
    ) -> Iterator[FeatureBatch]:
        """This process's share of the images of all `datasets`; of each image the backbone runs once. The classifier is in eval mode."""
        size = self.images.settings.eval_batch_size
        waiting: list[tuple[int, _Part]] = []
        for number, dataset in enumerate(datasets):
            if id(dataset) not in self._tests:  # the data set is held with its features, or its id would be given away again
                self._tests[id(dataset)] = dataset, list(self._computed(classifier, dataset, queries))
            for part in self._tests[id(dataset)][1]:
                if waiting and sum(len(p.positions) for _, p in waiting) + len(part.positions) > size:
                    yield _joined(waiting)
                    waiting = []
                waiting.append((number, part))
        if waiting:
            yield _joined(waiting)

    def _computed(self, classifier: AnyClassifier, dataset: ImageDataset, queries: KeptQueries | None) -> Iterator[_Part]:
        with told(queries, [dataset]) as tell:
            for positions, rows in self.images.rows(classifier.outputs, dataset, test=True, shelf=self.shelf, before=tell):
                yield _Part(np.asarray(positions, dtype=np.int64), rows.features, rows.labels)


def _joined(parts: Sequence[tuple[int, _Part]]) -> FeatureBatch:
    tests = np.concatenate([np.full(len(part.positions), number) for number, part in parts])
    positions = np.concatenate([part.positions for _, part in parts])
    return FeatureBatch(tests, positions, torch.cat([part.features for _, part in parts]), torch.cat([part.labels for _, part in parts]))
