"""Any picture Pillow can open, as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, ImageOps

WHITE = (255, 255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert to mode RGB, upright.

    The EXIF orientation is applied. Of an animation the first frame is taken. Transparent pixels show a white background: what lies
    below them in the file is arbitrary, often black. 16-bit grey keeps its full range, 0..65535 -> 0..255; Pillow's own conversion clips
    everything above 255 to white. Grey images of floats, or of integers beyond 16 bits, have no agreed range: their own
    minimum..maximum becomes 0..255.

    Raises what Pillow raises for a file that is broken.
    """
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
