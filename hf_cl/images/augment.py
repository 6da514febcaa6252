"""Augmentations of whole batches on the device, by name.

Letters: B batch, H, W sides of an image, S side the model sees, K draws per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.hints import nearest
from hf_cl.images.crops import PadCropFlip, RandomFlip, RandomResizedCropFlip
from hf_cl.images.preprocess import Preprocessor
from hf_cl.images.resample import stacked
from hf_cl.images.transfer import to_device


class Augmentation(Protocol):
    """A pure function of pixels and draws: equal draws give an image the same treatment in whatever batch it stands."""

    @property
    def num_draws(self) -> int:
        """K: uniform numbers wanted per sample."""
        ...

    @property
    def from_geometry(self) -> bool:
        """True: it starts from the image processor's S x S output. False: from the source image, which it crops itself."""
        ...

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 [H, W, 3] each, on the host; left as they are.
            draws: in [0, 1), [B, K].
            device: where the result is wanted, and most of the work is done.

        Returns: [B, 3, S, S], uint8 or float32 in [0, 1]; `Preprocessor.normalize` takes both.
        """
        ...


class ColorChange(Protocol):
    """A change of float pixels [B, 3, S, S] in place, by draws [B, K]."""

    @property
    def num_draws(self) -> int: ...
    def __call__(self, pixels: Tensor, draws: NDArray[np.float64]) -> Tensor: ...


class NoAugmentation:
    """The image processor's output as it is: training sees what evaluation sees."""

    from_geometry = True
    num_draws = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        return to_device(stacked(images, self.size), device)  # [B, 3, S, S]


class Recolored:
    """A crop, then changes of color."""

    def __init__(self, crop: RandomResizedCropFlip, *changes: ColorChange) -> None:
        self.crop, self.changes = crop, changes
        self.from_geometry = crop.from_geometry
        self.num_draws = crop.num_draws + sum(change.num_draws for change in changes)

    def __call__(self, images: Sequence[NDArray[np.uint8]], draws: NDArray[np.float64], device: torch.device) -> Tensor:
        used = self.crop.num_draws
        cropped = self.crop(images, draws[:, :used], device)  # [B, 3, S, S]
        if not cropped.is_floating_point():
            cropped = cropped.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        for change in self.changes:
            cropped = change(cropped, draws[:, used : used + change.num_draws])
            used += change.num_draws
        return cropped


def _strong(size: int) -> Recolored:
    """What CoACT (Roy et al., TMLR 2025) does to both views: SimCLR's list without blur, at half its strength."""
    from hf_cl.images.color import ColorJitter, RandomGrayscale  # noqa: PLC0415 (kornia: the other augmentations need not wait for it)

    return Recolored(RandomResizedCropFlip(size), ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8), RandomGrayscale(0.2))


def _strong_blur(size: int) -> Recolored:
    """The same with the blur of MoCo v2 (Chen et al., 2020, arXiv 2003.04297)."""
    from hf_cl.images.color import RandomBlur  # noqa: PLC0415

    strong = _strong(size)
    return Recolored(strong.crop, *strong.changes, RandomBlur((0.1, 2.0), probability=0.5))


AUGMENTATIONS: Mapping[str, Callable[[int], Augmentation]] = {
    "none": NoAugmentation,
    "flip": RandomFlip,
    "crop": lambda size: RandomResizedCropFlip(size, scale=(0.6, 1.0), flip=False),
    "crop_flip": RandomResizedCropFlip,
    "crop_flip_small": PadCropFlip,
    "strong": _strong,
    "strong_blur": _strong_blur,
}
"""Name -> function of the side S. `crop` never mirrors: for digits and letters. `crop_flip_small` shifts, for images of about 32 pixels."""


def build_augmentation(name: str, preprocessor: Preprocessor) -> Augmentation:
    """The augmentation of that name for the side the model sees. Raises ValueError, with the nearest name, for an unknown one."""
    check_augmentation(name)
    return AUGMENTATIONS[name](preprocessor.size)


def check_augmentation(name: str) -> None:
    """Raise ValueError, with the nearest name, for an unknown one."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"Unknown augmentation {name!r}.{nearest(name, AUGMENTATIONS)} Choose one of {', '.join(AUGMENTATIONS)}.")
