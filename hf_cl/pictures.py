"""Any picture, as 8-bit RGB."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hf_cl.errors import UnreadableImageError

WHITE = (255, 255, 255, 255)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are opened. Pillow knows more, some of which start other programs (EPS starts Ghostscript)."""
HEIF = "HEIF"
"""What phones write; opened where pillow-heif, an extra, is there."""
MAX_RATIO = 100
"""Long side to short side. Beyond that no picture is meant, and resizing the short side would make the long one huge."""


BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are cut off, damaged or no images; its plugins are not of one mind."""


def open_rgb(source: str | Path | BytesIO) -> Image.Image:
    """Read a picture, whatever its name says it is, and convert it as `to_rgb` does.

    Raises what Pillow raises for a file that is broken, and OSError for what is no regular file: a pipe or a device would not end.
    """
    with opened(source) as image:
        return to_rgb(image)


def opened(source: str | Path | BytesIO) -> Image.Image:
    """A picture whose header is read, and whose pixels are not; a context that closes it. Raises as `open_rgb`."""
    _check_source(source)
    Image.init()
    opens_heif()
    return Image.open(source, formats=[kind for kind in (*FORMATS, HEIF) if kind in Image.OPEN])


@cache
def opens_heif() -> bool:
    """Whether HEIC photos are opened: with the extra `heic`, whose plugin is registered here."""
    try:
        import pillow_heif  # noqa: PLC0415 (an extra)
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _check_source(source: str | Path | BytesIO) -> None:
    if isinstance(source, BytesIO):
        size = source.getbuffer().nbytes
    elif not Path(source).exists():
        return  # Pillow says so
    elif not Path(source).is_file():
        raise OSError("it is a folder" if Path(source).is_dir() else "it is no regular file")
    else:
        size = Path(source).stat().st_size
    if size == 0:
        raise OSError("the file is empty (0 bytes)")


@contextmanager
def readable(where: Callable[[], str]) -> Iterator[None]:
    """Raise UnreadableImageError, naming file or row, for whatever a broken picture raises inside."""
    try:
        yield
    except BROKEN as error:
        raise UnreadableImageError(where(), _cause(error)) from error


def open_image(file: str | Path) -> Image.Image:
    """`open_rgb` of a file. Raises UnreadableImageError, a ValueError, naming the file."""
    with readable(lambda: str(file)):
        return open_rgb(file)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert to mode RGB, upright.

    The EXIF orientation is applied. Of an animation the first frame is taken. Transparent pixels show a white background: what lies
    below them in the file is arbitrary, often black. 16-bit grey keeps its full range, 0..65535 -> 0..255; Pillow's own conversion clips
    everything above 255 to white. Grey images of floats, or of integers beyond 16 bits, have no agreed range: their own
    minimum..maximum becomes 0..255.

    Raises what Pillow raises for a file that is broken, and ValueError for sides that make no picture.
    """
    if max(image.size) > MAX_RATIO * min(image.size):
        raise ValueError(f"its sides are {image.size[0]} and {image.size[1]} pixels, more than {MAX_RATIO} to 1")
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.float64)  # [H, W]
    low, high = 0.0, 65535.0
    if image.mode == "F" or grey.min() < low or grey.max() > high:
        low, high = float(grey.min()), float(grey.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("it holds values that are not finite")
    scaled = (grey - low) * (255.0 / (high - low)) if high > low else np.zeros_like(grey)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _cause(error: BaseException) -> str:
    """One line without the path, which the message names already."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that hf_cl opens"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
