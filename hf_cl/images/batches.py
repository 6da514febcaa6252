"""Batches on the device, for training and for evaluation.

Nothing here draws from a global generator: order comes from `plan`, augmentation from `draws`. Nothing waits for the device.

Letters: B batch of this process, S side the model sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hf_cl.images.augment import Augmentation
from hf_cl.images.draws import uniform
from hf_cl.images.pixels import StoredImages
from hf_cl.images.preprocess import Preprocessor
from hf_cl.images.resample import stacked
from hf_cl.images.transfer import to_device


def train_batches(
    stored: StoredImages,
    augmentation: Augmentation,
    preprocessor: Preprocessor,
    batches: Sequence[Sequence[int]],
    *,
    seed: int,
    epoch: int,
    views: int = 1,
    device: torch.device,
) -> Iterator[dict[str, Tensor]]:
    """Augmented batches. View v of a sample is a function of (seed, epoch, sample id, v), whatever batch or process it is in.

    Args:
        stored: from `PixelStore.training` of a store with the same augmentation.
        augmentation: from `build_augmentation`.
        preprocessor: gives the values their mean and standard deviation.
        batches: positions, as `plan` gives them. An empty list makes an empty batch.
        seed, epoch: of the run; an epoch number that comes twice gives the same images twice.
        views: augmented views of each image.
        device: where the batches are wanted; the augmentation runs there, but for boxes, which are cut out on the host.

    Yields: `pixel_values` float32 [B, 3, S, S] (the second view: `pixel_values_1`), `labels` int64 [B], `index` int64 [B].
    """
    for positions, images in zip(batches, stored.batches(batches), strict=True):
        batch = labels_of(stored, positions, device)
        index = stored.indices[positions].numpy()
        for view in range(views):
            draws = uniform(seed, epoch, index, view, augmentation.num_draws)
            batch[view_name(view)] = preprocessor.normalize(augmentation(images, draws, device))
        yield batch


def eval_batches(
    stored: StoredImages, preprocessor: Preprocessor, batches: Sequence[Sequence[int]], *, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches exactly as the image processor makes them.

    Args:
        stored: from `PixelStore.evaluation`.
        preprocessor: of the model.
        batches: positions, as `sequential` gives them.
        device: where the batches are wanted.

    Yields: `pixel_values` float32 [B, 3, S, S], `labels` int64 [B], `index` int64 [B].
    """
    for positions, images in zip(batches, stored.batches(batches), strict=True):
        pixels = to_device(stacked(images, preprocessor.size), device)  # [B, 3, S, S]
        yield {"pixel_values": preprocessor.normalize(pixels)} | labels_of(stored, positions, device)


def exact_batches(
    stored: StoredImages, preprocessor: Preprocessor, batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Positions and pixels, uint8 [B, 3, S, S] on the CPU, as the image processor cuts them out and before it normalises them."""
    for positions, images in zip(batches, stored.batches(batches), strict=True):
        yield positions, stacked(images, preprocessor.size)


def view_name(view: int) -> str:
    """Key of an augmented view in a batch."""
    return "pixel_values" if view == 0 else f"pixel_values_{view}"


def labels_of(stored: StoredImages, positions: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """`labels` and `index`, int64 [B], of some positions."""
    which = torch.as_tensor(positions, dtype=torch.int64)
    return {"labels": to_device(stored.labels[which], device), "index": to_device(stored.indices[which], device)}
