import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    DINOv3ViTImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from hf_cl.images import Preprocessor
from hf_cl.images.preprocess import look_up, look_up_on_cpu

SQUARE = {"size": {"height": 24, "width": 24}}
CROPPED = {"size": {"shortest_edge": 26}, "crop_size": {"height": 24, "width": 24}}
TIMM = {"input_size": (3, 24, 24), "interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
PROCESSORS = {
    "vit": lambda **flags: ViTImageProcessor(**SQUARE, resample=3, **flags),
    "vit, bilinear": lambda **flags: ViTImageProcessor(**SQUARE, **flags),
    "vit, pil": lambda **flags: ViTImageProcessorPil(**SQUARE, **flags),
    "deit": lambda **flags: DeiTImageProcessor(**CROPPED, **flags),
    "clip": lambda **flags: CLIPImageProcessor(**CROPPED, **flags),
    "clip, pil": lambda **flags: CLIPImageProcessorPil(**CROPPED, **flags),
    "siglip": lambda **flags: SiglipImageProcessor(**SQUARE, **flags),
    "dinov2": lambda **flags: BitImageProcessor(**CROPPED, **flags),
    "convnext": lambda **flags: ConvNextImageProcessor(size={"shortest_edge": 24}, crop_pct=0.875, **flags),
}
FLAGS = [{}, {"do_normalize": False}, {"do_rescale": False}, {"do_rescale": False, "do_normalize": False}, {"rescale_factor": 1 / 127.5}]


def images():
    rng = np.random.default_rng(0)
    sizes = [(24, 24), (40, 30), (40, 30), (25, 90), (8, 8), (11, 70)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_two_stages_equal_the_processor_to_the_bit(name, flags):
    processor = PROCESSORS[name](**flags)
    preprocessor = Preprocessor(processor)
    geometry = preprocessor.geometry(images())
    assert preprocessor.size == 24
    assert geometry.dtype == torch.uint8
    assert torch.equal(preprocessor.normalize(geometry), processor(images(), return_tensors="pt")["pixel_values"].float())


def test_timms_transforms_to_the_bit():
    processor = TimmWrapperImageProcessor(TIMM)
    preprocessor = Preprocessor(processor)
    assert preprocessor.size == 24
    assert torch.equal(preprocessor.normalize(preprocessor.geometry(images())), processor(images())["pixel_values"])


@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "dinov2"])
def test_images_one_by_one_or_together(name):
    preprocessor = Preprocessor(PROCESSORS[name]())
    together = preprocessor.geometry(images())
    assert torch.equal(together, torch.cat([preprocessor.geometry([image]) for image in images()]))


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_floats_go_through_the_same_map(flags):
    preprocessor = Preprocessor(PROCESSORS["vit"](image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25], **flags))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    exact = preprocessor.normalize(levels)
    assert torch.allclose(preprocessor.normalize(levels / 255), exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


def test_floats_by_hand():
    preprocessor = Preprocessor(PROCESSORS["vit"](image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]))
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    assert torch.allclose(preprocessor.normalize(pixels), (pixels - mean) / std, atol=1e-5)


def test_accelerators_look_up_the_same(preprocessor):
    pixels = preprocessor.geometry(images())
    table = torch.rand(3, 256, generator=torch.Generator().manual_seed(0))
    assert torch.equal(look_up(table, pixels), look_up_on_cpu(table, pixels))
    assert torch.equal(look_up(table, pixels.contiguous(memory_format=torch.channels_last)), look_up_on_cpu(table, pixels))


def test_large_batches_are_looked_up_in_blocks(preprocessor, monkeypatch):
    pixels = preprocessor.geometry(images())
    whole = preprocessor.normalize(pixels)
    monkeypatch.setattr("hf_cl.images.preprocess._CACHED_PIXELS", 2 * 24 * 24)
    assert torch.equal(preprocessor.normalize(pixels), whole)
    assert torch.equal(preprocessor.normalize(pixels[:0]), whole[:0])
    assert torch.equal(preprocessor.normalize(pixels.contiguous(memory_format=torch.channels_last)), whole)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (ViTImageProcessor(size={"height": 24, "width": 32}), r"needed is uint8 \[3, S, S\]"),
        (ViTImageProcessor(do_resize=False), r"every image as \[3, S, S\] with one S"),
        (CLIPImageProcessor(size={"shortest_edge": 24}, do_center_crop=False), r"every image as \[3, S, S\] with one S"),
        (DINOv3ViTImageProcessor(**SQUARE), "does not resize first and then rescale"),
        (Siglip2ImageProcessor(), "Siglip2ImageProcessor cannot be used"),
        (object(), "object cannot be used as image processor. Load one with AutoImageProcessor"),
    ],
    ids=["oblong", "no resize", "no crop", "rescales first", "patches", "no processor"],
)
def test_processors_that_cannot_be_served_are_refused(processor, reason):
    with pytest.raises(ValueError, match=reason):
        Preprocessor(processor)
