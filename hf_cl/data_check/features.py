"""Features of the untouched backbone, in one pass over pictures that the store has decoded; kept for `hf-cl train` to find.

Shapes: n pictures, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import get_peft_model
from torch import nn

from hf_cl.backbones import classifier_of
from hf_cl.contracts import ImageDataset
from hf_cl.images import PixelStore
from hf_cl.methods.frozen import frozen
from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.feature_files import FeatureFiles
from hf_cl.training.image_stream import ImageStream

Features = Callable[[ImageDataset], NDArray[np.float32]]
"""A data set's features, [n, D]."""


def backbone_features(
    backbone: nn.Module, class_names: Sequence[str], settings: TrainingSettings, accelerator: RunAccelerator, store: PixelStore
) -> Features:
    """What computes features: those that `hf-cl train frozen` fits its head to, from `--feature_cache` where they are there.

    Raises ValueError for a base that no head goes on.
    """
    config = frozen({"type": "prototype"}).adapter
    config.class_names, config.classes_per_session = [*class_names], [len(class_names)]
    model: Any = get_peft_model(backbone, config, adapter_name="default").to(accelerator.device)
    images, classifier = ImageStream(store, settings, accelerator), classifier_of(model, None, "default")
    shelf = None
    if settings.feature_cache is not None:
        folder, precision = Path(settings.feature_cache).expanduser(), str(accelerator.mixed_precision)
        shelf = FeatureFiles(folder, model, model.base_model.prefix, config, images.preprocessor, precision).shelf()

    def features(data: ImageDataset) -> NDArray[np.float32]:
        return images.features(classifier, data, epoch=None, shelf=shelf).features.float().cpu().numpy()

    return features
