import numpy as np
import pytest
import torch
from PIL import Image

from hf_cl.images import AUGMENTATIONS, Forms, PixelStore, RandomResizedCropFlip, build_augmentation
from hf_cl.images.augment import Recolored
from hf_cl.images.draws import uniform

CPU = torch.device("cpu")


def augmented(name, dataset, preprocessor, positions, epoch=0):
    augmentation = build_augmentation(name, preprocessor)
    images = PixelStore(Forms(preprocessor, augmentation)).training(dataset).images(positions)
    draws = uniform(0, epoch, np.asarray(positions), 0, augmentation.num_draws)
    before = [image.copy() for image in images]
    result = augmentation(images, draws, CPU)
    assert all(np.array_equal(image, old) for image, old in zip(images, before, strict=True)), "the source is another view's source too"
    return result if result.is_floating_point() else result.float() / 255


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_gives_pixels_of_the_models_side(name, mixed, preprocessor):
    pixels = augmented(name, mixed, preprocessor, range(31))
    assert pixels.shape == (31, 3, 24, 24)
    assert pixels.min() >= 0
    assert 0.9 < pixels.max() <= 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_is_treated_alike_in_every_batch(name, mixed, preprocessor):
    together = augmented(name, mixed, preprocessor, range(31))
    alone = torch.cat([augmented(name, mixed, preprocessor, [position]) for position in (4, 30, 17)])
    assert (together[[4, 30, 17]] - alone).abs().max() < 1e-6


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"none"}))
def test_epochs_differ(name, mixed, preprocessor):
    first, second = (augmented(name, mixed, preprocessor, range(31), epoch) for epoch in range(2))
    assert (first != second).flatten(1).any(1).float().mean() > 0.4


def test_none_is_what_evaluation_sees(mixed, preprocessor):
    images = [Image.fromarray(array) for array in mixed.arrays]
    assert torch.equal(augmented("none", mixed, preprocessor, range(31)), preprocessor.geometry(images).float() / 255)


@pytest.fixture
def ramps(pictures):
    """Pictures that get brighter from left to right."""
    dataset = pictures([(40, 40)] * 200)
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    dataset.arrays = [np.broadcast_to(ramp[None, :, None], (40, 40, 3)) for _ in dataset.arrays]
    return dataset


@pytest.mark.parametrize("name", ["crop", "none"])
def test_digits_safe_choices_never_mirror(name, ramps, preprocessor):
    pixels = augmented(name, ramps, preprocessor, range(200))
    assert (pixels[..., -1] > pixels[..., 0]).all()


def test_crop_shows_most_of_the_image(ramps, preprocessor):
    pixels = augmented("crop", ramps, preprocessor, range(200))
    shown = pixels.amax((1, 2, 3)) - pixels.amin((1, 2, 3))
    assert shown.min() > np.sqrt(0.6 * 3 / 4) - 0.07  # the narrowest box, less what the filter smooths away
    assert shown.max() > 0.95


def test_crop_and_color_changes_have_draws_of_their_own(mixed, preprocessor):
    seen = []

    class Spy:
        def __init__(self, num_draws):
            self.num_draws = num_draws

        def __call__(self, pixels, draws):
            seen.append(draws)
            assert pixels.dtype == torch.float32
            return pixels

    crop = RandomResizedCropFlip(24)
    recolored = Recolored(crop, Spy(2), Spy(3))
    images = PixelStore(Forms(preprocessor, recolored)).training(mixed).images([0, 1])
    draws = uniform(0, 0, [0, 1], 0, recolored.num_draws)
    assert draws.shape[1] == crop.num_draws + 5
    recolored(images, draws, CPU)
    assert np.array_equal(np.concatenate(seen, axis=1), draws[:, crop.num_draws :])


def test_a_mistyped_name_gives_the_nearest(preprocessor):
    with pytest.raises(ValueError, match=r"Unknown augmentation 'crop_filp'\. Did you mean 'crop_flip'\?"):
        build_augmentation("crop_filp", preprocessor)
    with pytest.raises(ValueError, match="Choose one of none, flip"):
        build_augmentation("mixup", preprocessor)
