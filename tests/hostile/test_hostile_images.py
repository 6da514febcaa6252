"""Images of any kind: 8-bit RGB, or one sentence that names the file."""

from __future__ import annotations

import io
import os
import shutil
import warnings

import numpy as np
import pytest
from hostile_cases import cases, check_message, damaged, poison
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from hf_cl.errors import UnreadableImageError
from hf_cl.pictures import FORMATS, open_image
from hf_cl.scenarios import open_images


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (13, 9)) -> Image.Image:
    image = Image.new("RGB", size, (40, 90, 200))
    ImageDraw.Draw(image).ellipse((2, 2, 8, 7), fill=(250, 10, 10))
    return Image.fromarray(np.arange(117, dtype=np.uint16).reshape(9, 13) * 500) if mode == "I;16" else image.convert(mode)


GIF = [picture(), picture().rotate(90, expand=True).resize((13, 9))]
EXIF = Image.Exif()
EXIF[0x0112] = 6
KINDS = {
    "jpeg": encoded(picture(), "JPEG"),
    "cmyk": encoded(picture("CMYK"), "JPEG"),
    "rotated": encoded(picture(), "JPEG", exif=EXIF),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "png": encoded(picture(), "PNG"),
    "alpha": encoded(picture("RGBA"), "PNG"),
    "grey with alpha": encoded(picture("LA"), "PNG"),
    "palette": encoded(picture("P"), "PNG", transparency=1),
    "16 bits": encoded(picture("I;16"), "PNG"),
    "1 bit": encoded(picture("1"), "PNG"),
    "animated": encoded(GIF[0], "GIF", save_all=True, append_images=GIF[1:]),
    "animated png": encoded(GIF[0], "PNG", save_all=True, append_images=GIF[1:]),
    "webp": encoded(picture("RGBA"), "WEBP"),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF", compression="tiff_lzw"),
    "float tiff": encoded(picture("F"), "TIFF"),
    "ppm": encoded(picture(), "PPM"),
    "one pixel": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "avif": encoded(picture(), "AVIF"),
    "jpeg 2000": encoded(picture(), "JPEG2000"),
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "picture.jpg"


def read(file) -> Image.Image | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        try:
            image = open_image(file)
        except UnreadableImageError as error:
            check_message(error, file)
            return None
    assert image.mode == "RGB" and np.asarray(image).shape == (*image.size[::-1], 3)
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(file, kind):
    file.write_bytes(KINDS[kind])
    image = read(file)
    size = {"rotated": (9, 13), "one pixel": (1, 1)}.get(kind, (13, 9))
    assert image is not None and image.size == size


@cases
@given(data=st.data())
def test_any_damage_of_any_kind(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    file.write_bytes(data.draw(damaged(KINDS[data.draw(st.sampled_from(sorted(KINDS)))])))
    read(file)


@cases
@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6\n", b"RIFF"]),
)
def test_any_bytes(tmp_path_factory, data, start):
    file = tmp_path_factory.getbasetemp() / "bytes.png"
    file.write_bytes(start + data)
    read(file)


@cases
@given(kind=st.sampled_from(sorted(KINDS)), share=st.floats(0, 1, exclude_max=True))
def test_no_picture_is_half_a_picture(tmp_path_factory, kind, share):
    file = tmp_path_factory.getbasetemp() / "cut.png"
    whole = KINDS[kind]
    file.write_bytes(whole)
    expected = read(file)
    file.write_bytes(whole[: int(share * len(whole))])
    image = read(file)
    assert image is None or np.array_equal(np.asarray(image), np.asarray(expected))  # what was cut off came after the pixels


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size."""
    data = bytearray(KINDS["png"])
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "the file is empty"),
        (b"text", "no image format"),
        (png_of(50_000, 50_000), "exceeds limit"),
        (png_of(2**31 - 1, 2**31 - 1), "exceeds limit"),
        (png_of(60_000, 1), "sides are 60000 and 1 pixels, more than 100 to 1"),
        (png_of(0, 5), "."),
    ],
)
def test_what_is_no_picture(file, data, cause):
    file.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=cause) as caught:
        open_image(file)
    check_message(caught.value, file)


def test_no_other_program_is_started_and_no_pickle_read(tmp_path, file, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a picture started a program"))
    assert not {"EPS", "WMF", "FPX", "MIC", "HDF5"} & set(FORMATS)
    for data in (encoded(picture(), "EPS"), encoded(picture(), "PDF"), poison(tmp_path / "canary"), b"<svg onload='x'/>"):
        file.write_bytes(data)
        with pytest.raises(UnreadableImageError, match="no image format that hf_cl opens"):
            open_image(file)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "broken link", "loop"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "odd.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "broken link": tmp_path / "gone", "loop": path}[kind])
    with pytest.raises(UnreadableImageError) as caught:
        open_image(path)
    check_message(caught.value, path)


def test_a_data_set_with_one_of_each_lists_the_bad_ones_once(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, data in enumerate(KINDS.values()):
            (tmp_path / "data" / name / f"{i}.png").write_bytes(data)
    (tmp_path / "data" / "cat" / "empty.png").touch()
    (tmp_path / "data" / "cat" / "bomb\x1b[2J.png").write_bytes(png_of(50_000, 50_000))
    os.mkfifo(tmp_path / "data" / "dog" / "pipe.png")
    with pytest.raises(ValueError, match=r"3 unreadable images") as caught:
        open_images(tmp_path / "data")
    text = str(caught.value)
    check_message(caught.value, "cat/empty.png", "bomb", "dog/pipe.png", "--skip_bad_images")
    assert "\x1b" not in text
    source = open_images(tmp_path / "data", skip_bad_images=True)
    assert len(source.train) + len(source.test) == 2 * len(KINDS)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UnreadableImageError, match="No such file"):
        source.train[0]
