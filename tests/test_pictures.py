from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from hf_cl.scenarios import to_rgb


def reopened(image: Image.Image, file_format: str, **options) -> Image.Image:
    file = BytesIO()
    image.save(file, file_format, **options)
    return Image.open(BytesIO(file.getvalue()))


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("RGB", (5, 3), (200, 40, 60)).convert("L" if mode == "LAB" else mode)
    assert pixels(to_rgb(image)).shape == (3, 5, 3)


def test_rgb_keeps_its_values():
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(to_rgb(reopened(Image.fromarray(noise), "PNG"))), noise)


def test_sixteen_bit_grey_keeps_its_range():
    grey = np.array([[0, 255, 257, 30000, 65535]], dtype=np.uint16)
    image = reopened(Image.fromarray(grey), "PNG")
    np.testing.assert_array_equal(pixels(to_rgb(image))[0, :, 0], [0, 1, 1, 117, 255])
    np.testing.assert_array_equal(pixels(to_rgb(Image.fromarray(grey.astype(np.int32))))[0, :, 2], [0, 1, 1, 117, 255])


def test_a_dim_sixteen_bit_image_stays_dim():
    for values in ([[0, 30000]], [[0, 200]]):
        grey = np.array(values, dtype=np.uint16)
        expected = np.rint(grey / 257)[0]
        np.testing.assert_array_equal(pixels(to_rgb(Image.fromarray(grey)))[0, :, 0], expected)
        np.testing.assert_array_equal(pixels(to_rgb(Image.fromarray(grey.astype(np.int32))))[0, :, 0], expected)


def test_big_endian_tiff_reads_like_little_endian():
    grey = np.array([[0, 30000, 65535]], dtype=np.uint16)
    big = Image.frombytes("I;16B", (3, 1), grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(to_rgb(big))[0, :, 0], [0, 117, 255])


def test_float_grey_is_stretched_and_a_flat_one_is_black():
    image = Image.fromarray(np.array([[-1.0, 0.0, 1.0]], dtype=np.float32))
    np.testing.assert_array_equal(pixels(to_rgb(image))[0, :, 1], [0, 128, 255])
    assert pixels(to_rgb(Image.fromarray(np.full((2, 2), 7.5, dtype=np.float32)))).max() == 0


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        to_rgb(Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_are_white_and_opaque_ones_unchanged(mode):
    rgba = np.zeros((1, 2, 4), dtype=np.uint8)
    rgba[0, 1] = (90, 90, 90, 255)
    image = Image.fromarray(rgba)
    image = image.convert(mode) if mode != "P" else reopened(image.quantize(), "PNG")
    np.testing.assert_array_equal(pixels(to_rgb(image))[0], [[255, 255, 255], [90, 90, 90]])


def test_a_transparent_colour_of_an_rgb_png_is_white():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    np.testing.assert_array_equal(pixels(to_rgb(reopened(image, "PNG", transparency=(1, 2, 3))))[0], [[255] * 3, [9] * 3])


def test_exif_orientation_is_applied_once():
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = to_rgb(reopened(image, "JPEG", exif=exif))
    assert upright.size == (4, 8)
    assert to_rgb(upright).size == (4, 8)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    image = reopened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(to_rgb(image))[0, 0].tolist() == [255, 0, 0]
