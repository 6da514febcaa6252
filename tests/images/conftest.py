"""Small data sets of random pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from hf_cl.images import Forms, PixelStore, Preprocessor, build_augmentation


class Pictures:
    """Random pictures of given (height, width); label i % 3, sample id 100 + i. `reads` counts how often each was asked for."""

    def __init__(self, sizes, seed=0):
        rng = np.random.default_rng(seed)
        self.arrays = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.labels = [i % 3 for i in range(len(sizes))]
        self.indices = [100 + i for i in range(len(sizes))]
        self.reads = [0] * len(sizes)

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, position):
        self.reads[position] += 1
        return {"image": Image.fromarray(self.arrays[position]), "label": self.labels[position], "index": self.indices[position]}


@pytest.fixture
def pictures():
    return Pictures


@pytest.fixture
def mixed():
    """31 pictures of as many sizes, some smaller than the model's side, some larger."""
    sizes = np.random.default_rng(1).integers(20, 90, (31, 2))
    return Pictures([tuple(size) for size in sizes])


@pytest.fixture(scope="session")
def preprocessor():
    """Of a ViT that sees 24 x 24 pixels."""
    return Preprocessor(
        ViTImageProcessor(size={"height": 24, "width": 24}, resample=3, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])
    )


@pytest.fixture(scope="session")
def store_of(preprocessor):
    """`store_of("crop_flip", budget=...)`: a store for the augmentation of that name."""
    return lambda name="crop_flip", **settings: PixelStore(Forms(preprocessor, build_augmentation(name, preprocessor)), **settings)
