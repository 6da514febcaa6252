"""What can be predicted: files, folders, patterns, pictures, arrays, tensors, bytes, and anything that gives these one by one."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_cl.errors import exists, near_path
from hf_cl.pictures import open_rgb, readable, to_rgb
from hf_cl.scenarios.picture_files import picture_files

_SINGLE = (str, Path, Image.Image, np.ndarray, torch.Tensor, bytes, bytearray)


@dataclass(frozen=True)
class Input:
    """A picture that is not opened yet."""

    name: str
    """Its file, or its place among the others."""
    read: Callable[[], Image.Image]

    def open(self) -> Image.Image:
        """8-bit RGB. Raises UnreadableImageError, a ValueError that names it."""
        with readable(lambda: self.name):
            return self.read()


def is_one(images: Any) -> bool:
    """Whether this is one picture: a file, a PIL image, an array or tensor of it, or its bytes."""
    if isinstance(images, (str, Path)):
        return not _is_pattern(str(images)) and not (exists(Path(images)) and Path(images).is_dir())
    return isinstance(images, _SINGLE) and not (isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4)


def inputs_of(images: Any) -> Iterator[Input]:
    """The pictures, in order: of a folder all below it, of a pattern its files sorted, of an iterable its items as they come.

    A file that is not there is an input that fails when it is opened. Raises ValueError for a folder or pattern without pictures, and for
    what is none of these.
    """
    if isinstance(images, _SINGLE):
        yield from _of(images, "picture")
    elif isinstance(images, Iterable):
        for number, image in enumerate(images):
            yield from _of(image, f"item {number}")
    else:
        raise ValueError(f"{type(images).__name__} is no picture: give files, folders, PIL images, arrays, tensors or bytes.")


def _of(image: Any, name: str) -> Iterator[Input]:
    if isinstance(image, (str, Path)):
        yield from _files(image)
    elif isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4:
        for number, one in enumerate(image):
            yield from _of(one, f"{name}[{number}]")
    elif isinstance(image, Image.Image):
        yield Input(name, lambda: to_rgb(image))
    elif isinstance(image, np.ndarray):
        yield Input(name, lambda: to_rgb(_from_array(image)))
    elif isinstance(image, torch.Tensor):
        yield Input(name, lambda: to_rgb(_from_tensor(image)))
    elif isinstance(image, (bytes, bytearray)):
        yield Input(name, lambda: open_rgb(BytesIO(bytes(image))))
    else:
        raise ValueError(f"{name} is {type(image).__name__} and no picture: give files, PIL images, arrays, tensors or bytes.")


def _files(place: str | Path) -> Iterator[Input]:
    path = Path(place).expanduser()
    if exists(path) and path.is_dir():
        found = picture_files(path)
        found.say_passed_over(path)
        if not found.files:
            raise ValueError(f"{path} holds no pictures.")
        yield from (_file(path / file) for file in found.files)
    elif not exists(path) and _is_pattern(str(place)):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (a pattern may be absolute)
        if not names:
            raise ValueError(f"No file fits {str(place)!r}.{near_path(path)}")
        yield from (_file(Path(name)) for name in names if not Path(name).is_dir())
    else:
        yield _file(path)


def _file(path: Path) -> Input:
    return Input(str(path), lambda: open_rgb(path))


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[") and not exists(Path(text))


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(f"an array is uint8 [height, width, channels]; this is {array.dtype} {list(array.shape)}")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _from_tensor(tensor: torch.Tensor) -> Image.Image:
    """uint8, or floats in 0..1, [channels, height, width]."""
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(f"a tensor is [channels, height, width]; this is {list(tensor.shape)}")
    values = tensor.detach().cpu()
    if values.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            raise ValueError(f"a tensor of floats lies in 0..1; this lies in {low:.3g}..{high:.3g} (normalised already?)")
        values = (values * 255).round()
    return _from_array(values.to(torch.uint8).permute(1, 2, 0).numpy())  # [H, W, C]
