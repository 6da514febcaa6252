"""Batches on the device, for training and for evaluation.

Nothing here draws from a global generator: order comes from `plan`, augmentation from `draws`. Nothing waits for the device.

Letters: B batch of this process, S side the model sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hf_cl.images.augment import Augmentation
from hf_cl.images.decode import DecodedImages
from hf_cl.images.draws import uniform
from hf_cl.images.preprocess import Preprocessor
from hf_cl.images.transfer import to_device


def train_batches(
    decoded: DecodedImages,
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
        decoded: made by `DecodedImages.for_training` with the same augmentation.
        augmentation: from `build_augmentation`.
        preprocessor: gives the values their mean and standard deviation.
        batches: positions, as `plan` gives them. An empty list makes an empty batch.
        seed, epoch: of the run; an epoch number that comes twice gives the same images twice.
        views: augmented views of each image.
        device: where the batches are wanted; the augmentation runs there.

    Yields: `pixel_values` float32 [B, 3, S, S] (the second view: `pixel_values_1`), `labels` int64 [B], `index` int64 [B].
    """
    for positions, pixels in zip(batches, decoded.batches(batches), strict=True):
        batch = _labels(decoded, positions, device)
        index = decoded.indices[positions].numpy()
        values = to_device(pixels.values, device)
        for view in range(views):
            draws = uniform(seed, epoch, index, view, augmentation.num_draws)
            batch[view_name(view)] = preprocessor.normalize(augmentation(values, pixels.sizes, draws))
        yield batch


def eval_batches(
    decoded: DecodedImages, preprocessor: Preprocessor, batches: Sequence[Sequence[int]], *, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches exactly as the image processor makes them.

    Args:
        decoded: made by `DecodedImages.for_evaluation`.
        preprocessor: of the model.
        batches: positions, as `sequential` gives them.
        device: where the batches are wanted.

    Yields: `pixel_values` float32 [B, 3, S, S], `labels` int64 [B], `index` int64 [B].
    """
    for positions, pixels in zip(batches, decoded.batches(batches), strict=True):
        yield {"pixel_values": preprocessor.normalize(to_device(pixels.values, device))} | _labels(decoded, positions, device)


def view_name(view: int) -> str:
    """Key of an augmented view in a batch."""
    return "pixel_values" if view == 0 else f"pixel_values_{view}"


def _labels(decoded: DecodedImages, positions: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    which = torch.as_tensor(positions, dtype=torch.int64)
    return {"labels": to_device(decoded.labels[which], device), "index": to_device(decoded.indices[which], device)}
