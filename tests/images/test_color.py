import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tvF

from hf_cl.images.color import ColorJitter, RandomBlur, RandomGrayscale
from hf_cl.images.draws import uniform

APPLY, LEAVE = 0.0, 0.999
TOLERANCE = 1e-3  # kornia and torchvision differ in the fourth digit of the weights of luminance
ADJUST = [tvF.adjust_brightness, tvF.adjust_contrast, tvF.adjust_saturation, tvF.adjust_hue]


@pytest.fixture
def pixels():
    return torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def factors(draws):
    """Of brightness, contrast, saturation and hue for ColorJitter(0.4, 0.3, 0.2, 0.1)."""
    spread = 2 * draws[5:] - 1
    return [1 + 0.4 * spread[0], 1 + 0.3 * spread[1], 1 + 0.2 * spread[2], 0.1 * spread[3]]


def test_color_jitter_equals_torchvision_image_by_image(pixels):
    draws = uniform(0, 0, np.arange(6), 0, 9)
    draws[:, 0] = [APPLY, LEAVE, APPLY, APPLY, LEAVE, APPLY]
    got = ColorJitter(0.4, 0.3, 0.2, 0.1, probability=0.8)(pixels.clone(), draws)
    for image, result, draw in zip(pixels, got, draws, strict=True):
        if draw[0] == LEAVE:
            assert torch.equal(result, image)
            continue
        wanted = image
        for operation in draw[1:5].argsort():
            wanted = ADJUST[operation](wanted, factors(draw)[operation])
        assert (result - wanted).abs().max() < TOLERANCE


def test_every_order_of_the_four_changes_occurs():
    orders = uniform(0, 0, np.arange(2000), 0, 9)[:, 1:5].argsort(axis=1)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 2000 / 24 / 2


def test_grayscale(pixels):
    got = RandomGrayscale(0.2)(pixels.clone(), np.array([[APPLY], [LEAVE]] * 3))
    assert torch.equal(got[1::2], pixels[1::2])
    assert (got[::2] - tvF.rgb_to_grayscale(pixels[::2], num_output_channels=3)).abs().max() < TOLERANCE


def test_blur_equals_torchvision_image_by_image():
    pixels = torch.rand(4, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    draws = np.array([[APPLY, 0.0], [LEAVE, 0.5], [APPLY, 0.5], [APPLY, 0.99]])
    got = RandomBlur((0.1, 2.0), probability=0.5)(pixels.clone(), draws)
    assert torch.equal(got[1], pixels[1])
    for i in (0, 2, 3):
        sigma = 0.1 + 1.9 * draws[i, 1]
        assert (got[i] - tvF.gaussian_blur(pixels[i], [7, 7], [sigma, sigma])).abs().max() < 1e-5


@pytest.mark.parametrize(
    "change", [ColorJitter(0.4, 0.4, 0.4, 0.1, 0.8), RandomGrayscale(0.5), RandomBlur((0.1, 2.0), 0.5)], ids=lambda c: type(c).__name__
)
def test_company_changes_nothing(change, pixels):
    draws = uniform(0, 0, np.arange(6), 0, change.num_draws)
    together = change(pixels.clone(), draws)
    alone = torch.cat([change(pixels[i : i + 1].clone(), draws[i : i + 1]) for i in range(6)])
    assert (together - alone).abs().max() < 1e-6
    assert not torch.equal(together, pixels)
    nobody = change(pixels[:0].clone(), draws[:0])
    assert nobody.shape == (0, 3, 24, 24)
