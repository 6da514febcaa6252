"""A Hugging Face image processor in two stages, so that its slow half is done once per image.

`geometry` is its resizing and cropping, 8 bits to 8 bits: it can be cached. `normalize` is what it does to single values afterwards. The
processor itself defines both: the second stage is a table of what it makes of each of the 256 levels of each channel, so
`normalize(geometry(images))` equals `processor(images)["pixel_values"]` to the bit, whatever its backend, flags and arithmetic (rescaling
and normalisation in one step or two, in 32 or 64 bits). This needs a processor that resizes 8-bit values, as those of ViT, DeiT, DINOv2
(BiT), CLIP, SigLIP and timm do; one that rescales first (DINOv3) is refused.

Letters: B batch, S side of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend

from hf_cl.images.transfer import to_device

_LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
"""An image that holds every level once in each channel, [16, 16, 3]."""
_CACHED_PIXELS = 1 << 16
_VALUE_TRANSFORMS = {"ToTensor", "MaybeToTensor", "Normalize"}


class Preprocessor:
    """Runs the processor's two stages apart.

    Args:
        processor: the image processor that belongs to the base and is saved beside the adapter.

    Raises ValueError for a processor whose output is not [3, S, S] with one S for all images, or cannot be split in two stages.
    """

    size: int
    """S, the side the model sees."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._stages = _TimmStages(processor) if type(processor).__name__ == "TimmWrapperImageProcessor" else _Stages(processor)
        name = type(processor).__name__
        probes = [_noise(48, 64), _noise(90, 40)]
        try:
            pixels = torch.stack([self._stages.geometry([probe])[0] for probe in probes])  # [2, 3, S, S]
            table = self._stages.values(Image.fromarray(_LEVELS)).reshape(3, 256)
            expected = torch.cat([processor([probe], return_tensors="pt")["pixel_values"] for probe in probes])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{name} cannot be used: it must give every image as [3, S, S] with one S. It says: {error}") from error
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise ValueError(
                f"{name} gives images as {pixels.dtype} {list(pixels.shape[1:])}; needed is uint8 [3, S, S]. "
                "Set its size (and crop_size, where it crops) to a square."
            )
        self.size = pixels.shape[-1]
        self._tables = {torch.device("cpu"): table.to(torch.float32).contiguous()}
        if not torch.equal(self.normalize(pixels), expected.to(torch.float32)):
            raise ValueError(f"{name} cannot be used: it does not resize first and then rescale and normalise single values.")

    def geometry(self, images: Sequence[Image.Image]) -> Tensor:
        """The processor's resizing and cropping: uint8 [B, 3, S, S] on the CPU."""
        return self._stages.geometry(images)

    def normalize(self, pixels: Tensor) -> Tensor:
        """The processor's rescaling and normalisation of values, as its flags say.

        Args:
            pixels: [B, 3, S, S], uint8 (to the bit what the processor gives) or floats in [0, 1] (the same map, between the levels).

        Returns: float32 [B, 3, S, S] on the device of `pixels`.
        """
        table = self._table_on(pixels.device)  # [3, 256]
        if pixels.is_floating_point():
            lowest, highest = table[:, 0, None, None], table[:, 255, None, None]
            return (pixels * (highest - lowest)).add_(lowest)
        return look_up_on_cpu(table, pixels) if pixels.device.type == "cpu" else look_up(table, pixels)

    @property
    def values(self) -> Tensor:
        """[3, 256] float32 on the CPU: what `normalize` makes of each level of each channel."""
        return self._tables[torch.device("cpu")]

    def _table_on(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = to_device(self._tables[torch.device("cpu")], device)
        return self._tables[device]


class _Stages:
    """The stages of a processor of transformers."""

    def __init__(self, processor: Any) -> None:
        if not isinstance(processor, TorchvisionBackend | PilBackend):
            raise ValueError(
                f"{type(processor).__name__} cannot be used as image processor. Load one with AutoImageProcessor.from_pretrained."
            )
        self.processor = processor
        self.options: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        if isinstance(processor, TorchvisionBackend):
            # Images of one size are resized together: almost twice as fast for small ones, and the same values.
            self.options["disable_grouping"] = False

    def geometry(self, images: Sequence[Image.Image]) -> Tensor:
        return self.processor(list(images), **self.options)["pixel_values"]

    def values(self, image: Image.Image) -> Tensor:
        return self.processor([image], do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


class _TimmStages:
    """The stages of transformers' wrapper around timm's evaluation transform."""

    def __init__(self, processor: Any) -> None:
        transforms = processor.val_transforms.transforms
        self.geometry_transforms = [t for t in transforms if type(t).__name__ not in _VALUE_TRANSFORMS]
        self.value_transforms = [t for t in transforms if type(t).__name__ in _VALUE_TRANSFORMS]

    def geometry(self, images: Sequence[Image.Image]) -> Tensor:
        arrays = [np.asarray(_apply(self.geometry_transforms, image)) for image in images]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)  # [B, 3, S, S]

    def values(self, image: Image.Image) -> Tensor:
        return _apply(self.value_transforms, image)


def _apply(transforms: Sequence[Any], image: Any) -> Any:
    for transform in transforms:
        image = transform(image)
    return image


def look_up(table: Tensor, pixels: Tensor) -> Tensor:
    """`table[c, pixels[b, c]]`: table [3, 256], pixels uint8 [B, 3, S, S]."""
    row = torch.arange(0, 3 * 256, 256, dtype=torch.int32, device=pixels.device)[:, None, None]
    return table.flatten().index_select(0, (pixels + row).flatten()).view(pixels.shape)  # [B, 3, S, S]


def look_up_on_cpu(table: Tensor, pixels: Tensor) -> Tensor:
    """`look_up` by numpy, which is faster at it than torch; in blocks that stay in the cache, which halves the time."""
    values, levels = np.empty(pixels.shape, dtype=np.float32), table.numpy()
    block = max(1, _CACHED_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    for first in range(0, len(pixels), block):
        for channel in range(3):
            source = pixels[first : first + block, channel].numpy()
            np.take(levels[channel], source, out=values[first : first + block, channel], mode="clip")
    return torch.from_numpy(values)


def _noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))
