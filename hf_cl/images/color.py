"""Random changes of color and sharpness, by kornia, with factors of their own for every image.

Each operation is run on the images it concerns and no others. Which these are is known on the host, so nothing waits for the device.

Letters: B batch, n images concerned, S image side, K draws per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import kornia.color
import kornia.enhance
import kornia.filters
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.images.transfer import to_device

_ADJUST: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    kornia.enhance.adjust_brightness_accumulative,
    kornia.enhance.adjust_contrast_with_mean_subtraction,
    kornia.enhance.adjust_saturation_with_gray_subtraction,
    kornia.enhance.adjust_hue,
)


class ColorJitter:
    """Brightness, contrast, saturation and hue, in random order: torchvision's ColorJitter with an order of its own for each image.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x.
        hue: turns of the color wheel, drawn from -x to x.
        probability: share of the images that is changed.
    """

    num_draws = 9  # change at all, order (4), factors (4)

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, probability: float) -> None:
        self.ranges = np.array([brightness, contrast, saturation, 2 * math.pi * hue])
        self.centres = np.array([1.0, 1.0, 1.0, 0.0])
        self.probability = probability

    def __call__(self, pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Change float pixels [B, 3, S, S] in [0, 1] in place, by draws [B, 9]; returns them."""
        changed = draws[:, 0] < self.probability  # [B]
        order = draws[:, 1:5].argsort(axis=1)  # [B, 4]
        factors = (self.centres + self.ranges * (2 * draws[:, 5:] - 1)).astype(np.float32)  # [B, 4]
        for place in range(4):
            for operation, adjust in enumerate(_ADJUST):
                which = np.flatnonzero(changed & (order[:, place] == operation))  # [n]
                rows = to_device(torch.from_numpy(which), pixels.device)
                factor = to_device(torch.from_numpy(factors[which, operation]), pixels.device)
                pixels[rows] = adjust(pixels[rows], factor)
        return pixels


class RandomGrayscale:
    """Luminance in all three channels, for a share of the images."""

    num_draws = 1

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Change float pixels [B, 3, S, S] in place, by draws [B, 1]; returns them."""
        rows = to_device(torch.from_numpy(np.flatnonzero(draws[:, 0] < self.probability)), pixels.device)  # [n]
        pixels[rows] = kornia.color.rgb_to_grayscale(pixels[rows]).expand(-1, 3, -1, -1)
        return pixels


class RandomBlur:
    """Gaussian blur with a kernel of a tenth of the side, for a share of the images (SimCLR, MoCo v2).

    Args:
        sigma: smallest and largest standard deviation in pixels.
        probability: share of the images that is blurred.
    """

    num_draws = 2

    def __init__(self, sigma: tuple[float, float], probability: float) -> None:
        self.sigma, self.probability = sigma, probability

    def __call__(self, pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Change float pixels [B, 3, S, S] in place, by draws [B, 2]; returns them."""
        which = np.flatnonzero(draws[:, 0] < self.probability)  # [n]
        if len(which) == 0:
            return pixels
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * draws[which, 1:]  # [n, 1]
        rows = to_device(torch.from_numpy(which), pixels.device)
        kernel = pixels.shape[-1] // 20 * 2 + 1
        # kornia wants sigma on the host: it checks its sign there.
        pixels[rows] = kornia.filters.gaussian_blur2d(pixels[rows], kernel, torch.from_numpy(sigma).expand(-1, 2).float())
        return pixels
