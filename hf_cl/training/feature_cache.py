"""Features of whole data sets, computed once as long as nothing trains in between."""

from __future__ import annotations

from functools import partial

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import FeatureSet, ImageDataset
from hf_cl.memory.joined import Joined
from hf_cl.training.feature_files import FeatureFiles
from hf_cl.training.feature_shelf import FeatureShelf
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.image_stream import ImageStream


class FeatureCache:
    """Cleared by the loop whenever a weight may have changed. `epoch` is what augmented features are drawn with.

    `files` are those of `--feature_cache`, which outlive the run; None without it.
    """

    def __init__(self, images: ImageStream, classifier: AnyClassifier, frozen: FrozenStates, files: FeatureFiles | None = None) -> None:
        self.images, self.classifier, self.frozen, self.files, self.epoch = images, classifier, frozen, files, 0
        self._sets: dict[tuple[int, bool, str | None], tuple[ImageDataset, FeatureSet]] = {}
        self.trained: ImageDataset | None = None
        """What the session trains on: features of its own images, as augmentation draws them, are the first of these."""

    def of(self, dataset: ImageDataset, *, augment: bool = False, role: str | None = None) -> FeatureSet:
        """Features of all images of `dataset`: eval mode, no gradient, gathered over the processes, on the device.

        `role`: through another state of the backbone, as `FrozenStates.run` knows them.
        """
        if augment and isinstance(self.trained, Joined) and dataset is self.trained.own:
            both = self.of(self.trained, augment=True, role=role)
            return FeatureSet(*(part[: len(dataset)] for part in (both.features, both.labels, both.index)))
        key = (id(dataset), augment, role)
        if key not in self._sets:  # the data set is held with its features, or its id would be given away again
            outputs = self.classifier.outputs if role is None else partial(self.frozen.run, role)
            epoch, shelf = (self.epoch, None) if augment else (None, self.shelf(role))
            found = self.images.features(self.classifier, dataset, epoch=epoch, outputs=outputs, shelf=shelf)
            self._sets[key] = dataset, found
        return self._sets[key][1]

    def shelf(self, role: str | None = None) -> FeatureShelf | None:
        """Where features of the present state are kept beyond the run; None where they are not."""
        return None if self.files is None else self.files.shelf(role)

    def clear(self) -> None:
        """Forget all."""
        self._sets.clear()
