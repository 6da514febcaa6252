"""Queries of test images, kept from session to session.

An adapter that chooses by the image asks the untouched tower first, and no session changes what that answers: a test image costs one such
pass in a run, however many sessions evaluate it.

Shapes: n images of a test, B batch, Q width of the query, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.adapters.query_pass import Query, QueryPass
from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import ImageDataset, Outputs
from hf_cl.images.transfer import to_device
from hf_cl.training.feature_files import FeatureFiles
from hf_cl.training.image_stream import ImageStream

Positions = Sequence[int] | NDArray[np.int64]
Tell = Callable[..., None]
"""(pixels [B, 3, S, S], positions of B images, of which of the data sets each is: of the first where nothing is said)."""


class KeptQueries:
    """Belongs to the evaluations of a run.

    Queries are computed test by test, in batches of that test alone, so that they do not depend on when: a run that was resumed, and asks
    for those of all tests again, has the same bits. In such a batch the logits are to the bit those of a forward that asks for itself; in
    one with images of several tests they may differ by the rounding of a matrix product with another number of rows.

    Args:
        images, classifier: of the run.
        asked: the adapter's.
        files: those of `--feature_cache`, which outlive the run; None without it.
    """

    def __init__(self, images: ImageStream, classifier: AnyClassifier, asked: QueryPass, files: FeatureFiles | None = None) -> None:
        self.images, self.classifier, self.asked, self.files = images, classifier, asked, files
        self._tests: dict[tuple[int, Query], tuple[ImageDataset, Tensor]] = {}

    @contextmanager
    def telling(self, datasets: Sequence[ImageDataset]) -> Iterator[Tell | None]:
        """Inside, what is given lets the adapter know the queries of images of `datasets` ahead of their forward; None where it asks none.

        To be entered on every process, in eval mode.
        """
        kinds = self.asked.kinds()
        some = [dataset for dataset in datasets if len(dataset)]
        rows: dict[Query, Tensor] = {}
        for kind in kinds if some else ():
            rows[kind] = torch.cat([self._of(dataset, kind) for dataset in some])  # [n of all, Q]
        starts = np.cumsum([0, *map(len, datasets)])

        def tell(pixel_values: Tensor, positions: Positions, tests: NDArray[np.int64] | int = 0) -> None:
            for kind, known in rows.items():
                chosen = to_device(torch.from_numpy(starts[tests] + np.asarray(positions, dtype=np.int64)), known.device)  # [B]
                self.asked.tell(pixel_values, kind, known[chosen])

        with self.asked.keeping():
            yield tell if rows else None

    def known(self, dataset: ImageDataset) -> bool:
        """Whether an evaluation has asked for the queries of `dataset`."""
        return any(id(dataset) == number for number, _ in self._tests)

    def _of(self, dataset: ImageDataset, kind: Query) -> Tensor:
        """[n, Q] of all images, on every process."""
        key = (id(dataset), kind)
        if key not in self._tests:  # the data set is held with its queries, or its id would be given away again
            shelf = None if self.files is None else self.files.query_shelf(kind)
            found = self.images.features(self.classifier, dataset, None, lambda pixels: self._outputs(pixels, kind), shelf, test=True)
            self._tests[key] = dataset, found.features
        return self._tests[key][1]

    def _outputs(self, pixel_values: Tensor, kind: Query) -> Outputs:
        query = self.asked.query(pixel_values, kind)
        return Outputs(features=query, logits=query[:, :0], embedding=query)  # of no class


def told(queries: KeptQueries | None, datasets: Sequence[ImageDataset]) -> AbstractContextManager[Tell | None]:
    """`telling` of what there may be none of."""
    return nullcontext() if queries is None else queries.telling(datasets)
