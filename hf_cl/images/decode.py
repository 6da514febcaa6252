"""A picture, decoded, in the forms that are kept of it.

Letters: n pictures, H, W sides, S side the model sees.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_cl.contracts import ImageDataset
from hf_cl.images.augment import Augmentation
from hf_cl.images.preprocess import Preprocessor

Picture = NDArray[np.uint8]
"""[H, W, 3]: with its channels together a pixel is read at once, which makes cropping on the CPU twice as fast."""

EXACT, SHRUNK = 0, 1
"""Forms: what the processor's geometry makes of a picture, [S, S, 3], and the picture itself, shrunk to what crops can show of it."""

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class Forms:
    """Makes the forms, and knows which one the augmentation starts from.

    Args:
        preprocessor: of the model.
        augmentation: one that crops itself starts from SHRUNK, any other from EXACT.
    """

    def __init__(self, preprocessor: Preprocessor, augmentation: Augmentation) -> None:
        self.preprocessor, self.augmentation = preprocessor, augmentation
        self.training = EXACT if augmentation.from_geometry else SHRUNK
        self.max_side = math.ceil(preprocessor.size * 256 / 224)
        """Of the shorter side of a shrunk picture: about what a crop of half the area can show."""

    def exact(self, images: Sequence[Image.Image]) -> list[Picture]:
        """[S, S, 3] each; images of one size are resized together, which is faster for small ones."""
        if not images:
            return []
        return [np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()) for pixels in self.preprocessor.geometry(images)]

    def shrunk(self, image: Image.Image) -> Picture:
        """[H, W, 3], the shorter side at most `max_side`."""
        return shrink(image, self.max_side)

    def is_whole(self, image: Image.Image) -> bool:
        """Whether nothing is lost in `shrunk`, so that EXACT can be made of it."""
        return min(image.size) <= self.max_side


def shrink(image: Image.Image, max_side: int) -> Picture:
    """[H, W, 3], the shorter side at most `max_side`; antialiased, shape of the picture kept."""
    scale = max_side / min(image.size)
    if scale < 1:
        width, height = (max(max_side, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(image)


def open_position(dataset: ImageDataset, position: int) -> Image.Image:
    """The picture at `position`, decoded. Raises RuntimeError naming it where it cannot be read or is not RGB."""
    index = dataset.indices[position]
    try:
        image = dataset[position]["image"]
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise RuntimeError(
            f"Image {position} (sample {index}) cannot be read: {error} Restore it, or start again: the data set is looked at first, and "
            "--check_images all looks at what was found whole before, too."
        ) from error
    if image.mode != "RGB":
        raise RuntimeError(f"Image {position} (sample {index}) has mode {image.mode}; the data set must give RGB images.")
    return image


def in_threads(function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], workers: int) -> Iterator[ResultT]:
    """`map` in threads, in order, with at most one result waiting more than there are threads."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[ResultT]] = deque()
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
