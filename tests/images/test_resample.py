import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from hf_cl.images import RandomResizedCropFlip, resample
from hf_cl.images.draws import uniform
from hf_cl.images.resample import crop_and_resize, resize_by_products

LEVEL = 1 / 255


def by_kernel(pixels, boxes, flip, size, interpolation="bicubic"):
    """`crop_and_resize` of a batch [B, 3, H, W]."""
    return crop_and_resize(list(pixels.permute(0, 2, 3, 1).numpy()), boxes, flip, size, interpolation)


METHODS = {"cpu kernel": by_kernel, "products": resize_by_products}


def as_float(pixels):
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def expected(image, box, flip, size, interpolation):
    """torchvision on one image: floats in double precision, clipped; 8 bits as they are."""
    image = image.double() / 255 if image.is_floating_point() else image
    crop = resized_crop(image, *box.tolist(), [size, size], interpolation=InterpolationMode(interpolation), antialias=True)
    crop = crop.float().clamp(0, 1) if crop.is_floating_point() else crop.float() / 255
    return crop.flip(-1) if flip else crop


def noise(count, side, low=0, high=256):
    rng = np.random.default_rng(side)
    pixels = torch.from_numpy(rng.integers(low, high, (count, 3, side, side), dtype=np.uint8))
    boxes = boxes_in(np.full((count, 2), side), rng)
    boxes[0] = (0, 0, side, side)
    return pixels, boxes, rng.random(count) < 0.5


def boxes_in(sizes, rng):
    height_width = np.stack([rng.integers(1, sizes[:, 0] + 1), rng.integers(1, sizes[:, 1] + 1)], axis=1)
    corner = np.stack([rng.integers(0, sizes[:, i] - height_width[:, i] + 1) for i in range(2)], axis=1)
    return np.concatenate([corner, height_width], axis=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(32, 48), (64, 24), (33, 32), (7, 50)])
def test_products_equal_torchvision_on_floats(side, size, interpolation):
    pixels, boxes, flip = noise(12, side)
    got = resize_by_products(pixels, boxes, flip, size, interpolation)
    wanted = [expected(image.float(), box, mirrored, size, interpolation) for image, box, mirrored in zip(pixels, boxes, flip, strict=True)]
    assert (got - torch.stack(wanted)).abs().max() < 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(32, 48), (64, 24), (33, 32), (7, 50)])
def test_the_cpu_kernel_equals_torchvision_on_8_bits(side, size, interpolation, layout):
    """Within one level: torch picks its kernel by memory layout, and they round differently."""
    pixels, boxes, flip = noise(12, side)
    got = as_float(by_kernel(pixels.contiguous(memory_format=layout), boxes, flip, size, interpolation))
    wanted = [expected(image, box, mirrored, size, interpolation) for image, box, mirrored in zip(pixels, boxes, flip, strict=True)]
    assert (got - torch.stack(wanted)).abs().max() < 1.01 * LEVEL


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_both_methods_agree_where_nothing_is_clipped(interpolation):
    pixels, boxes, flip = noise(12, 50, low=80, high=170)
    exact = resize_by_products(pixels, boxes, flip, 32, interpolation)
    assert (as_float(by_kernel(pixels, boxes, flip, 32, interpolation)) - exact).abs().max() < 2 * LEVEL


@pytest.mark.parametrize("method", METHODS)
def test_padding_and_company_change_nothing(method):
    resize = METHODS[method]
    rng = np.random.default_rng(3)
    sizes = rng.integers(10, 60, (9, 2))
    boxes, flip = boxes_in(sizes, rng), rng.random(9) < 0.5
    padded = torch.full((9, 3, 60, 60), 255, dtype=torch.uint8)  # padding that would show
    images = [torch.from_numpy(rng.integers(0, 128, (3, *size), dtype=np.uint8)) for size in sizes]
    for target, image in zip(padded, images, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
    together = as_float(resize(padded, boxes, flip, 24))
    alone = [as_float(resize(image[None], boxes[i : i + 1], flip[i : i + 1], 24))[0] for i, image in enumerate(images)]
    # The CPU kernel is the same to the bit; the products sum more zeros, in another order.
    assert (together - torch.stack(alone)).abs().max() <= (0 if method == "cpu kernel" else 1e-6)


def test_a_panorama_and_a_page_in_a_batch_cost_no_more_than_squares():
    """Elsewhere than on the CPU a batch is padded: only the boxes go there, which are nearly square whatever the pictures are."""
    crop, moved = RandomResizedCropFlip(224), []
    images = [np.zeros((258, 2580, 3), np.uint8), np.zeros((2580, 258, 3), np.uint8), *[np.zeros((258, 258, 3), np.uint8)] * 6]
    original, resample.to_device = resample.to_device, lambda tensor, device: moved.append(tensor.numel()) or original(tensor, device)
    try:
        for epoch in range(20):
            draws = uniform(0, epoch, np.arange(len(images)), 0, crop.num_draws)
            assert crop(images, draws, torch.device("meta")).shape == (8, 3, 224, 224)
    finally:
        resample.to_device = original
    assert max(moved) <= 2 * len(images) * 3 * 258 * 258


@pytest.mark.parametrize("method", METHODS)
def test_empty_batch(method):
    resize = METHODS[method]
    nothing = torch.zeros(0, 3, 5, 5, dtype=torch.uint8)
    assert resize(nothing, np.zeros((0, 4), np.int64), np.zeros(0, bool), 24).shape == (0, 3, 24, 24)
