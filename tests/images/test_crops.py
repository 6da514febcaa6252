import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from hf_cl.images.crops import PadCropFlip, RandomFlip, RandomResizedCropFlip, random_boxes
from hf_cl.images.draws import uniform

RATIO = (3 / 4, 4 / 3)
KEEP, MIRROR = 0.9, 0.1
"""Draws of the flip."""
CPU = torch.device("cpu")


def on_host(pixels):
    """[B, 3, H, W] as the store gives images."""
    return list(pixels.permute(0, 2, 3, 1).numpy())


def boxes_for(size, count=4000, scale=(0.08, 1.0), ratio=RATIO):
    return random_boxes(np.tile(size, (count, 1)), uniform(0, 0, np.arange(count), 0, 22), scale, ratio)


@pytest.mark.parametrize("size", [(32, 32), (50, 90), (200, 37)])
def test_boxes_lie_inside_the_image(size):
    top, left, height, width = boxes_for(size).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height).max() == size[0]
    assert (left + width).max() == size[1]


@pytest.mark.parametrize(("size", "scale"), [((224, 224), (0.08, 1.0)), ((100, 300), (0.08, 1.0)), ((64, 48), (0.6, 1.0))])
def test_boxes_are_distributed_as_torchvisions(size, scale):
    ours = boxes_for(size, 2000, scale)
    image = torch.zeros(1, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(2000)])
    measures = {
        "area": lambda boxes: boxes[:, 2] * boxes[:, 3],
        "ratio": lambda boxes: boxes[:, 3] / boxes[:, 2],
        "top": lambda boxes: boxes[:, 0],
        "left": lambda boxes: boxes[:, 1],
    }
    for name, measure in measures.items():
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3, name


def test_area_and_ratio_are_those_asked_for():
    boxes = boxes_for((1000, 1000), 20_000, scale=(0.08, 0.5))  # every try fits
    area, ratio = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    assert stats.kstest(area, stats.uniform(0.08, 0.42).cdf).pvalue > 1e-3
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    assert stats.kstest(np.log(ratio), stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((40, 44), (0, 0, 40, 44))],
)
def test_the_fallback_is_the_largest_central_box(size, box):
    """Areas above the image's own never fit."""
    assert (boxes_for(size, 5, scale=(1.5, 2.0)) == box).all()


def test_the_first_try_that_fits_is_taken():
    draws = np.full((1, 22), 0.5)
    draws[0, :10], draws[0, 10:20] = 1 - 1e-9, 0.5  # the whole image, square
    assert random_boxes(np.array([[30, 60]]), draws, (0.08, 1.0), RATIO).tolist() == [[0, 10, 30, 40]]  # none fits: fallback
    draws[0, 4] = 0.0  # area 0.08 in the fifth try
    assert random_boxes(np.array([[30, 60]]), draws, (0.08, 1.0), RATIO)[0, 2:].tolist() == [12, 12]


def test_half_of_the_crops_are_mirrored_unless_that_is_forbidden():
    ramp = torch.arange(0, 200, 5, dtype=torch.uint8).expand(200, 3, 40, 40).contiguous()  # brighter to the right
    draws = uniform(0, 0, np.arange(200), 0, 23)
    images = on_host(ramp)
    falls = lambda crops: (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).float()  # noqa: E731
    assert 0.35 < falls(RandomResizedCropFlip(24)(images, draws, CPU)).mean() < 0.65
    assert falls(RandomResizedCropFlip(24, flip=False)(images, draws, CPU)).sum() == 0


def test_random_flip():
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flipped = RandomFlip(5)(on_host(pixels), np.array([[MIRROR], [KEEP]]), CPU)
    assert torch.equal(flipped, torch.stack([pixels[0].flip(-1), pixels[1]]))


@pytest.mark.parametrize(("place", "offset"), [(0.0, 0), (0.5, 4), (1 - 1e-9, 8)])
def test_pad_crop_flip_shifts_by_an_eighth_over_black(place, offset):
    pixels = torch.randint(1, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = np.array([[place, 0.5, KEEP], [0.5, place, MIRROR]])
    padded = torch.nn.functional.pad(pixels, [4] * 4)
    got = PadCropFlip(32)(on_host(pixels), draws, CPU)
    assert torch.equal(got[0], padded[0, :, offset : offset + 32, 4:36])
    assert torch.equal(got[1], padded[1, :, 4:36, offset : offset + 32].flip(-1))
