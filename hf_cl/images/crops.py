"""Random crops and mirror images of a batch.

Letters: B batch, S side of the result, K draws per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.images.resample import Interpolation, crop_and_resize, stacked
from hf_cl.images.transfer import to_device

TRIES = 10
"""Boxes tried before falling back to a central one, as in torchvision."""


class RandomResizedCropFlip:
    """A box of random area and aspect ratio, resized to S x S; mirrored in half of the cases.

    Inception's crop (Szegedy et al.: Going deeper with convolutions, CVPR 2015) with the distribution of torchvision's RandomResizedCrop.

    Args:
        size: S.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height; drawn uniformly on a log scale.
        flip: False where mirror images mean something else, as in digits and letters.
        interpolation: the resizing kernel; always antialiased.
    """

    from_geometry = False

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip
        self.interpolation: Interpolation = interpolation
        self.num_draws = 2 * TRIES + 3  # area and ratio of each try, place (2), mirror

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)  # [B, 2]
        boxes = random_boxes(sizes, draws[:, :-1], self.scale, self.ratio)  # [B, 4]
        mirrored = (draws[:, -1] < 0.5) & self.flip  # [B]
        return crop_and_resize(images, boxes, mirrored, self.size, self.interpolation, device)


def random_boxes(
    sizes: NDArray[np.int64], draws: NDArray[np.float64], scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    """Boxes with the distribution of torchvision's RandomResizedCrop.get_params.

    Args:
        sizes: height and width of each image, [B, 2].
        draws: in [0, 1), [B, 22].
        scale, ratio: as in `RandomResizedCropFlip`.

    Returns: (top, left, height, width), [B, 4].
    """
    height, width = sizes[:, :1], sizes[:, 1:]  # [B, 1] each
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, :TRIES])  # [B, tries]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    box_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    box_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    fits = (box_height > 0) & (box_height <= height) & (box_width > 0) & (box_width <= width)
    first = fits.argmax(axis=1)[:, None]  # [B, 1]; 0 where none fits
    box = np.concatenate([np.take_along_axis(box_height, first, 1), np.take_along_axis(box_width, first, 1)], axis=1)  # [B, 2]
    place = draws[:, 2 * TRIES : 2 * TRIES + 2]
    corner = np.floor(place * (sizes - box + 1)).astype(np.int64)
    fallback = _largest_boxes(sizes, ratio)
    found = fits.any(axis=1, keepdims=True)
    box = np.where(found, box, fallback)
    corner = np.where(found, corner, (sizes - fallback) // 2)
    return np.concatenate([corner, box], axis=1)


def _largest_boxes(sizes: NDArray[np.int64], ratio: tuple[float, float]) -> NDArray[np.int64]:
    """The largest (height, width) whose aspect ratio lies in the range, [B, 2]."""
    height, width = sizes[:, 0], sizes[:, 1]
    box_height = np.where(width < ratio[0] * height, np.rint(width / ratio[0]), height)
    box_width = np.where(width > ratio[1] * height, np.rint(height * ratio[1]), width)
    return np.stack([box_height, box_width], axis=1).astype(np.int64)


class RandomFlip:
    """The image processor's output, mirrored in half of the cases."""

    from_geometry = True
    num_draws = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        pixels = to_device(stacked(images, self.size), device)  # [B, 3, S, S]
        mirrored = to_device(torch.from_numpy(draws[:, 0] < 0.5), pixels.device)  # [B]
        return torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)


class PadCropFlip:
    """The image processor's output, shifted by up to S/8 in both directions over a black border, mirrored in half of the cases.

    The usual treatment of 32-pixel images (padding 4; Lee et al.: Deeply-supervised nets, AISTATS 2015).
    """

    from_geometry = True
    num_draws = 3

    def __init__(self, size: int) -> None:
        self.size, self.padding = size, size // 8

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        pixels = to_device(stacked(images, self.size), device)  # [B, 3, S, S]
        offsets = np.floor(draws[:, :2] * (2 * self.padding + 1)).astype(np.int64)  # [B, 2]
        along = np.arange(self.size)
        rows = offsets[:, :1] + along  # [B, S]
        columns = offsets[:, 1:] + np.where(draws[:, 2:] < 0.5, along[::-1], along)  # [B, S]
        padded = F.pad(pixels, [self.padding] * 4)  # [B, 3, S + 2 padding, S + 2 padding]
        rows = to_device(torch.from_numpy(rows), pixels.device)[:, None, :, None].expand(-1, 3, -1, padded.shape[3])
        columns = to_device(torch.from_numpy(columns), pixels.device)[:, None, None, :].expand(-1, 3, self.size, -1)
        return padded.gather(2, rows).gather(3, columns)  # [B, 3, S, S]
