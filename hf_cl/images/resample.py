"""Cut a box out of every image of a batch and resize it, with antialiasing as Pillow and torchvision do it.

Letters: B batch, H, W sides of the padded batch, S side of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.images.transfer import to_device

Interpolation = Literal["bilinear", "bicubic"]
CPU = torch.device("cpu")


def crop_and_resize(
    images: Sequence[NDArray[np.uint8]],
    boxes: NDArray[np.int64],
    flip: NDArray[np.bool_],
    size: int,
    interpolation: Interpolation = "bicubic",
    device: torch.device = CPU,
) -> Tensor:
    """One box of each image, cut out on the host, resized to S x S and mirrored where `flip` says so.

    The CPU has a fast kernel for single 8-bit images, which rounds and clips to 8 bits after each axis, as Pillow does. Other devices
    get the boxes, and nothing of the images around them, and do the whole batch in two matrix products, clipped at the end and unrounded.
    Both are antialiased; they differ by two levels of 255, and more only next to pixels whose overshoot is clipped. Neither reads a pixel
    outside the box.

    Args:
        images: uint8 [H, W, 3] each, on the CPU, of any sizes.
        boxes: (top, left, height, width) in pixels, inside the image, [B, 4].
        flip: [B].
        size: S.

    Returns: [B, 3, S, S], uint8 on the CPU, elsewhere float32 in [0, 1].
    """
    cut = [image[top : top + height, left : left + width] for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)]
    if device.type != "cpu":
        pixels = to_device(padded(cut), device)  # [B, 3, largest height, largest width of a box]
        return resize_by_products(pixels, np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, 2:]], axis=1), flip, size, interpolation)
    # numpy makes the copies: torch would share out each of them, small as they are, among its threads.
    resized = np.empty((len(cut), size, size, 3), dtype=np.uint8)  # [B, S, S, 3]
    for i, part in enumerate(cut):
        box = torch.from_numpy(np.ascontiguousarray(part[None])).permute(0, 3, 1, 2)  # [1, 3, h, w]
        crop = F.interpolate(box, (size, size), mode=interpolation, antialias=True)
        crop = crop[0].permute(1, 2, 0).numpy()  # [S, S, 3]
        resized[i] = crop[:, ::-1] if flip[i] else crop
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def stacked(images: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """Images [side, side, 3] as one batch, uint8 [B, 3, side, side]."""
    values = np.stack(images) if images else np.zeros((0, side, side, 3), dtype=np.uint8)  # [B, side, side, 3]
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def padded(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images [h, w, 3] as one batch, uint8 [B, 3, H, W], with zeros at the bottom and on the right."""
    height, width = np.array([image.shape[:2] for image in images]).reshape(-1, 2).max(axis=0, initial=1)
    values = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for target, image in zip(values, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def resize_by_products(
    pixels: Tensor, boxes: NDArray[np.int64], flip: NDArray[np.bool_], size: int, interpolation: Interpolation = "bicubic"
) -> Tensor:
    """Boxes of a padded batch, uint8 [B, 3, H, W], as rows @ image @ columns^T; returns float32 [B, 3, S, S] in [0, 1]."""
    height, width = pixels.shape[-2:]
    top, left, box_height, box_width = to_device(torch.from_numpy(boxes), pixels.device).unbind(1)  # [B] each
    mirrored = to_device(torch.from_numpy(flip), pixels.device)  # [B]
    rows = _weights(top, box_height, height, size, interpolation)  # [B, S, H]
    columns = _weights(left, box_width, width, size, interpolation)  # [B, S, W]
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)  # [B, 3, H, W]
    values = values.flatten(1, 2) @ columns.transpose(1, 2)  # [B, 3 H, S]
    values = rows[:, None] @ values.unflatten(1, (3, height))  # [B, 3, S, S]
    return values.div_(255).clamp_(0, 1)


def _weights(start: Tensor, length: Tensor, side: int, size: int, interpolation: Interpolation) -> Tensor:
    """Share of source pixel j in target pixel i, along one axis: [B, S, side]. Rows sum to one; pixels outside the box have share zero."""
    scale = length[:, None, None] / size  # [B, 1, 1]
    # The filter grows with the box when it shrinks the image: this is what antialiasing means here.
    stretch = scale.clamp(min=1)
    centre = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale  # [B, S, 1]
    position = torch.arange(side, device=start.device) - start[:, None, None]  # [B, 1, side]
    distance = ((position + 0.5 - centre) / stretch).abs()  # [B, S, side]
    inside = (position >= 0) & (position < length[:, None, None])
    weights = _filter(distance, interpolation) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _filter(distance: Tensor, interpolation: Interpolation) -> Tensor:
    """Triangle, or Keys' cubic convolution (IEEE Trans. ASSP 29, 1981) with a = -1/2, Pillow's and torch's choice for antialiasing."""
    if interpolation == "bilinear":
        return (1 - distance).clamp(min=0)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far * (distance < 2))
