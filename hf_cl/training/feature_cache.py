"""Features of whole data sets, computed once as long as nothing trains in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from hf_cl.adapters.modes import evaluating
from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import FeatureSet, ImageDataset
from hf_cl.images.transfer import to_device
from hf_cl.memory.joined import Joined
from hf_cl.memory.kept_features import KeptFeatures
from hf_cl.training.feature_files import FeatureFiles
from hf_cl.training.feature_shelf import FeatureShelf
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.kept_queries import KeptQueries, told


class FeatureCache:
    """The loop says when a weight has moved (`clear`) or may have (`doubt`). `epoch` is what augmented features are drawn with.

    After a doubt, features of the present state stay where nothing before the head has changed, so that what looks at the same images
    again and again under a frozen backbone, as the stability probe does, costs the head alone.

    Args:
        images, classifier, frozen: of the run.
        before_head: all that features depend on and that may change, by name.
        files: those of `--feature_cache`, which outlive the run; None without it.
        queries: of test images, which what looks at them again need not ask for; None where the adapter asks nothing.
    """

    def __init__(
        self,
        images: ImageStream,
        classifier: AnyClassifier,
        frozen: FrozenStates,
        before_head: Callable[[], Mapping[str, Tensor]],
        files: FeatureFiles | None = None,
        queries: KeptQueries | None = None,
    ) -> None:
        self.images, self.classifier, self.frozen, self.files, self.queries, self.epoch = images, classifier, frozen, files, queries, 0
        self._sets: dict[tuple[int, bool, str | None], tuple[ImageDataset, FeatureSet]] = {}
        self._before_head, self._then, self._doubted = before_head, dict[str, Tensor](), False
        """`_then`: copies of what lay before the head when the features that are kept were computed."""
        self.trained: ImageDataset | None = None
        """What the session trains on: features of its own images, as augmentation draws them, are the first of these."""

    def of(self, dataset: ImageDataset, *, augment: bool = False, role: str | None = None) -> FeatureSet:
        """Features of all images of `dataset`: eval mode, no gradient, gathered over the processes, on the device.

        `role`: through another state of the backbone, as `FrozenStates.run` knows them. Waits for the device after a doubt.
        """
        if self._doubted and not self._unchanged():
            self.clear()
        self._doubted = False
        if isinstance(dataset, Joined) and isinstance(dataset.kept, KeptFeatures):
            return self._with_kept(dataset, dataset.kept, augment, role)
        if augment and isinstance(self.trained, Joined) and dataset is self.trained.own and not isinstance(self.trained.kept, KeptFeatures):
            both = self.of(self.trained, augment=True, role=role)
            return FeatureSet(*(part[: len(dataset)] for part in (both.features, both.labels, both.index)))
        key = (id(dataset), augment, role)
        if key not in self._sets:  # the data set is held with its features, or its id would be given away again
            if not self._then:
                self._then = {name: tensor.detach().clone() for name, tensor in self._before_head().items()}
            outputs = self.classifier.outputs if role is None else partial(self.frozen.run, role)
            epoch, shelf = (self.epoch, None) if augment else (None, self.shelf(role))
            plain = role is None and not augment and self.queries is not None and self.queries.known(dataset)
            with evaluating(self.classifier), told(self.queries if plain else None, [dataset]) as tell:
                found = self.images.features(self.classifier, dataset, epoch, outputs, shelf, before=tell)
            self._sets[key] = dataset, found
        return self._sets[key][1]

    def _with_kept(self, dataset: Joined, kept: KeptFeatures, augment: bool, role: str | None) -> FeatureSet:
        """Features of the session's images, and behind them the rows that a memory keeps."""
        if role is not None:
            raise ValueError(f"Of a memory's rows of features there is no image to run through {role!r}.")
        own, key = self.of(dataset.own, augment=augment), (id(dataset), augment, None)
        if key not in self._sets:
            rows = kept.rows
            parts = ((own.features, rows.features), (own.labels, rows.labels), (own.index, rows.index))
            self._sets[key] = (
                dataset,
                FeatureSet(*(torch.cat([mine, to_device(theirs.to(mine.dtype), mine.device)]) for mine, theirs in parts)),
            )
        return self._sets[key][1]

    def shelf(self, role: str | None = None) -> FeatureShelf | None:
        """Where features of the present state are kept beyond the run; None where they are not."""
        return None if self.files is None else self.files.shelf(role)

    def clear(self) -> None:
        """Forget all: what lies before the head has moved."""
        self._sets.clear()
        self._then = {}

    def doubt(self, *ended: ImageDataset) -> None:
        """Something ran that may have moved what lies before the head, or begun an epoch; `ended` will not be asked for again."""
        done = set(map(id, ended))
        self._sets = {
            (dataset, augment, role): entry
            for (dataset, augment, role), entry in self._sets.items()
            if not augment and role in (None, "pretrained") and dataset not in done
        }
        self._doubted = bool(self._sets)
        if not self._sets:
            self.clear()

    @torch.no_grad()
    def _unchanged(self) -> bool:
        now = self._before_head()
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in self._then.items()}
        if {name: (tensor.shape, tensor.dtype) for name, tensor in now.items()} != shapes:
            return False
        equal = [(tensor == self._then[name]).all() for name, tensor in now.items()]
        return not equal or bool(torch.stack(equal).all())
