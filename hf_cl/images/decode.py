"""Images decoded once and kept as bytes in memory.

Letters: n images, B batch, H, W sides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hf_cl.contracts import ImageDataset
from hf_cl.images.augment import Augmentation
from hf_cl.images.preprocess import Preprocessor

CHUNK = 64
"""Images per task of a thread: few enough to share the work, many enough that handing it out costs nothing."""

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class Pixels(NamedTuple):
    """Images of a batch."""

    values: Tensor  # uint8 [B, 3, H, W] on the CPU, padded with zeros at the bottom and on the right
    sizes: NDArray[np.int64]  # height and width of each image, [B, 2]


class DecodedImages:
    """A data set's images as 8-bit pixels, and its labels and sample ids.

    Decoding runs once, in threads, when the object is made. What does not fit into the byte budget (per process) is decoded each time it
    is asked for, batches ahead in threads; what fits stays. Images of one size lie in one tensor, others side by side.

    Args:
        dataset: the images.
        read: makes uint8 [3, H, W] of each of a few decoded images.
        workers: threads.
        byte_budget: memory for pixels.

    Raises RuntimeError naming an image that cannot be read.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        read: Callable[[Sequence[Image.Image]], Iterable[Tensor]],
        *,
        workers: int = 2,
        byte_budget: int = 4 << 30,
    ) -> None:
        self.labels = torch.as_tensor(np.asarray(dataset.labels, dtype=np.int64))  # [n]
        self.indices = torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))  # [n]
        self._dataset, self._read, self._workers = dataset, read, workers
        self._kept = _Kept(byte_budget, len(self))
        chunks = [range(first, min(first + CHUNK, len(self))) for first in range(0, len(self), CHUNK)]
        for images in self._in_threads(self._decode, chunks):
            if not all(self._kept.append(image) for image in images):
                break

    @classmethod
    def for_training(
        cls, dataset: ImageDataset, augmentation: Augmentation, preprocessor: Preprocessor, *, workers: int = 2, byte_budget: int = 4 << 30
    ) -> DecodedImages:
        """The images an augmentation starts from: as the processor's geometry leaves them, or as they are.

        Those it crops itself are shrunk until their shorter side is S * 256 / 224: about what a crop of half the area can show.
        """
        max_side = math.ceil(preprocessor.size * 256 / 224)
        read = preprocessor.geometry if augmentation.from_geometry else lambda images: [shrink(image, max_side) for image in images]
        return cls(dataset, read, workers=workers, byte_budget=byte_budget)

    @classmethod
    def for_evaluation(
        cls, dataset: ImageDataset, preprocessor: Preprocessor, *, workers: int = 2, byte_budget: int = 4 << 30
    ) -> DecodedImages:
        """The images as the processor's geometry leaves them."""
        return cls(dataset, preprocessor.geometry, workers=workers, byte_budget=byte_budget)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_kept(self) -> int:
        """Images in memory; the others are decoded on demand."""
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Memory of the pixels that are kept."""
        return self._kept.num_bytes

    def batch(self, positions: Sequence[int]) -> Pixels:
        """The images at `positions`."""
        missing = [position for position in positions if position >= self.num_kept]
        if not missing and self._kept.stack is not None:
            values = self._kept.stack[np.asarray(positions, dtype=np.int64)]  # [B, H, W, 3]
            return Pixels(torch.from_numpy(values).permute(0, 3, 1, 2), np.full((len(positions), 2), values.shape[1:3]))
        decoded = dict(zip(missing, self._decode(missing), strict=True))
        return _padded([decoded[position] if position in decoded else self._kept[position] for position in positions])

    def batches(self, plan: Iterable[Sequence[int]]) -> Iterator[Pixels]:
        """`batch` of each list of positions; decoded ahead in threads unless all images are in memory."""
        if self.num_kept == len(self):
            return map(self.batch, plan)
        return self._in_threads(self.batch, plan)

    def _decode(self, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """[h, w, 3] each: with its channels together a pixel is read at once, which makes cropping on the CPU twice as fast."""
        if not positions:
            return []
        return [image.permute(1, 2, 0).numpy() for image in self._read([self._open(position) for position in positions])]

    def _open(self, position: int) -> Image.Image:
        try:
            image = self._dataset[position]["image"]
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise RuntimeError(
                f"Image {position} (sample {self.indices[position]}) cannot be read: {error} "
                "It was there when the data set was checked: restore it, or start again without it."
            ) from error
        if image.mode != "RGB":
            raise RuntimeError(
                f"Image {position} (sample {self.indices[position]}) has mode {image.mode}; the data set must give RGB images."
            )
        return image

    def _in_threads(self, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT]) -> Iterator[ResultT]:
        with ThreadPoolExecutor(self._workers) as pool:
            yield from _in_order(pool, function, tasks, ahead=self._workers + 1)


class _Kept:
    """The first images of a data set, [h, w, 3] each, as far as the budget goes."""

    def __init__(self, byte_budget: int, num_images: int) -> None:
        self._free, self._num_images = byte_budget, num_images
        self._count = self.num_bytes = 0
        self._list: list[NDArray[np.uint8]] = []
        self.stack: NDArray[np.uint8] | None = None
        """[rows, H, W, 3] while all images have one size."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        return self._list[position] if self.stack is None else self.stack[position]

    def append(self, image: NDArray[np.uint8]) -> bool:
        """Keep the image; False where it does not fit any more."""
        if image.size > self._free:
            return False
        if self._count == 0:
            # The rows cost nothing before they are written; stacking a finished list would need twice the memory.
            self.stack = np.empty((min(self._num_images, self._free // image.size), *image.shape), dtype=np.uint8)
        elif self.stack is not None and image.shape != self.stack.shape[1:]:
            self._list, self.stack = list(self.stack[: self._count]), None
        if self.stack is None:
            self._list.append(np.ascontiguousarray(image))
        else:
            self.stack[self._count] = image
        self._free -= image.size
        self.num_bytes += image.size
        self._count += 1
        return True


def shrink(image: Image.Image, max_side: int) -> Tensor:
    """uint8 [3, H, W], the shorter side at most `max_side`; antialiased, shape of the picture kept."""
    scale = max_side / min(image.size)
    if scale < 1:
        width, height = (max(max_side, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _padded(images: Sequence[NDArray[np.uint8]]) -> Pixels:
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)  # [B, 2]
    height, width = sizes.max(axis=0, initial=1)
    values = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for target, image in zip(values, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return Pixels(torch.from_numpy(values).permute(0, 3, 1, 2), sizes)


def _in_order(pool: Executor, function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], ahead: int) -> Iterator[ResultT]:
    """`map` in the pool, with at most `ahead` results waiting."""
    pending: deque[Future[ResultT]] = deque()
    for task in tasks:
        pending.append(pool.submit(function, task))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
