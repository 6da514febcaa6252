from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stream import Images

from hf_cl.hub.evaluate import evaluate, match_names


class Known:
    """A classifier that names images by the mean of their red, and counts its batches."""

    class_names = ["dark", "light", "middle"]

    def __init__(self):
        self.batches = []

    def logits(self, images):
        self.batches.append(len(images))
        red = torch.tensor([np.asarray(image)[..., 0].mean() for image in images])
        return torch.stack([255 - red, red, torch.full_like(red, 100.0)], dim=1)


class Grey(Images):
    """Label 0 is light, label 1 is dark."""

    def __getitem__(self, position):
        item = super().__getitem__(position)
        value = 240 if item["label"] == 0 else 10
        return item | {"image": item["image"].point(lambda _: value)}


def test_labels_are_matched_by_name():
    classifier = Known()
    found = evaluate(classifier, Grey([0, 0, 1, 1, 1]), ["light", "dark"], batch_size=2)
    assert (found.images, found.accuracy) == (5, 1.0)
    assert found.per_class == {"light": (2, 2), "dark": (3, 3)} and found.absent == ["middle"]
    assert classifier.batches == [2, 2, 1]


def test_mistakes_count_against_their_class():
    found = evaluate(Known(), Grey([0, 0, 1]), ["dark", "light"])  # named the wrong way round
    assert found.accuracy == 0 and found.per_class == {"dark": (0, 2), "light": (0, 1)}


def test_classes_without_images_are_no_row():
    found = evaluate(Known(), Grey([0]), ["light", "dark", "middle"])
    assert list(found.per_class) == ["light"] and found.absent == ["dark", "middle"]


def test_strangers_are_listed_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"2 of 3 classes .* adapter's 3: 'Lihgt' \(the adapter has 'light'\), 'cat'\. Rename"):
        match_names(["Lihgt", "dark", "cat"], Known.class_names)
    with pytest.raises(ValueError, match=r"'n7' and 92 more"):
        match_names([f"n{i}" for i in range(100)], Known.class_names)


def test_no_image_is_no_accuracy():
    with pytest.raises(ValueError, match="no image"):
        evaluate(SimpleNamespace(class_names=["light"]), Grey([]), ["light"])
