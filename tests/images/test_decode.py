import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cl.images import DecodedImages, build_augmentation
from hf_cl.images.decode import CHUNK, shrink


def as_they_are(images):
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]


def expected(dataset, position):
    return torch.from_numpy(dataset.arrays[position]).permute(2, 0, 1)


def test_equal_sizes_are_one_tensor_and_come_back_as_they_were(pictures):
    dataset = pictures([(9, 7)] * 5)
    decoded = DecodedImages(dataset, as_they_are)
    values, sizes = decoded.batch([3, 0, 3])
    assert values.dtype == torch.uint8
    assert torch.equal(values, torch.stack([expected(dataset, position) for position in (3, 0, 3)]))
    assert sizes.tolist() == [[9, 7]] * 3
    assert decoded.labels.tolist() == dataset.labels
    assert decoded.indices.tolist() == dataset.indices


def test_unequal_sizes_are_padded_with_zeros(mixed):
    decoded = DecodedImages(mixed, as_they_are)
    positions = [30, 2, 17, 2]
    values, sizes = decoded.batch(positions)
    assert values.shape[2:] == tuple(sizes.max(axis=0))
    for image, (height, width), position in zip(values, sizes, positions, strict=True):
        assert (height, width) == mixed.arrays[position].shape[:2]
        assert torch.equal(image[:, :height, :width], expected(mixed, position))
        assert image.sum() == image[:, :height, :width].sum()


def test_each_image_is_decoded_once(pictures):
    dataset = pictures([(4, 4)] * (2 * CHUNK + 3))
    decoded = DecodedImages(dataset, as_they_are)
    for _ in range(2):
        list(decoded.batches([[0, 1], [CHUNK], [2 * CHUNK + 2]]))
    assert dataset.reads == [1] * len(dataset)


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_what_exceeds_the_budget_is_decoded_on_demand(pictures, sizes):
    dataset = pictures([(6, 6) if sizes == "equal" else (6, 6 + i % 3) for i in range(20)])
    whole, part = DecodedImages(dataset, as_they_are), DecodedImages(dataset, as_they_are, byte_budget=1000)
    assert 0 < part.num_kept <= 1000 // 108
    assert whole.num_kept == 20
    reads = list(dataset.reads)
    batches = [[19, 0, 5], [1, 2], [], [12, 13, 14, 15, 18]]
    for here, there in zip(whole.batches(batches), part.batches(batches), strict=True):
        assert torch.equal(here.values, there.values)
        assert np.array_equal(here.sizes, there.sizes)
    assert dataset.reads[0] == reads[0]
    assert dataset.reads[19] == reads[19] + 1


def test_no_budget_at_all(pictures):
    dataset = pictures([(6, 6)] * 3)
    decoded = DecodedImages(dataset, as_they_are, byte_budget=0)
    assert decoded.num_kept == 0
    assert torch.equal(decoded.batch([1]).values[0], expected(dataset, 1))


def test_leaving_a_stream_early_ends_its_threads(pictures):
    decoded = DecodedImages(pictures([(6, 6)] * 50), as_they_are, byte_budget=0)
    before = threading.active_count()
    stream = decoded.batches([[position] for position in range(50)])
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_empty_batches_and_data_sets(pictures):
    assert DecodedImages(pictures([(6, 6)] * 2), as_they_are).batch([]).values.shape == (0, 3, 6, 6)
    nothing = DecodedImages(pictures([]), as_they_are)
    assert len(nothing) == 0
    assert list(nothing.batches([])) == []
    values, sizes = DecodedImages(pictures([(6, 6), (6, 7)]), as_they_are).batch([])
    assert len(values) == 0
    assert sizes.shape == (0, 2)


class Files:
    labels, indices = [0, 0], [5, 6]

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 2

    def __getitem__(self, position):
        with Image.open(self.folder / f"{position}.png") as image:
            image.load()
        return {"image": image, "label": 0, "index": self.indices[position]}


def test_a_vanished_file_is_named(tmp_path):
    for position in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{position}.png")
    decoded = DecodedImages(Files(tmp_path), as_they_are, byte_budget=0)
    (tmp_path / "1.png").unlink()
    with pytest.raises(RuntimeError, match=r"Image 1 \(sample 6\) cannot be read: .*1\.png"):
        decoded.batch([0, 1])
    with pytest.raises(RuntimeError, match=r"1\.png"):
        DecodedImages(Files(tmp_path), as_they_are)


def test_a_cut_off_file_is_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:45])
    with pytest.raises(RuntimeError, match=r"Image 1 \(sample 6\) cannot be read"):
        DecodedImages(Files(tmp_path), as_they_are)


def test_an_image_that_breaks_only_when_its_pixels_are_read_is_named(pictures):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")

    class Lazy(pictures):
        def __getitem__(self, position):
            return {"image": Image.open(io.BytesIO(buffer.getvalue()[:45])), "label": 0, "index": 0}

    with pytest.raises(RuntimeError, match=r"Image 0 \(sample 100\) cannot be read"):
        DecodedImages(Lazy([(4, 4)]), as_they_are)


def test_an_image_that_is_not_rgb_is_refused(tmp_path):
    for position in range(2):
        Image.new("L", (4, 4)).save(tmp_path / f"{position}.png")
    with pytest.raises(RuntimeError, match="has mode L; the data set must give RGB"):
        DecodedImages(Files(tmp_path), as_they_are)


@pytest.mark.parametrize(("size", "shrunk"), [((100, 60), (50, 30)), ((30, 200), (30, 200)), ((61, 90), (30, 44)), ((20, 25), (20, 25))])
def test_shrink_bounds_the_shorter_side_and_keeps_the_shape(size, shrunk):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert shrink(image, 30).shape == (3, *shrunk)


def test_shrink_is_antialiased():
    stripes = np.full((120, 120, 3), 64, dtype=np.uint8)
    stripes[::2] = 192
    assert (shrink(Image.fromarray(stripes), 30).float() - 128).abs().max() < 8  # 64 where rows are dropped


def test_training_keeps_the_source_or_the_geometry(mixed, preprocessor):
    crop = DecodedImages.for_training(mixed, build_augmentation("crop_flip", preprocessor), preprocessor)
    assert all(min(size) <= 28 for size in crop.batch(range(31)).sizes)  # 24 * 256 / 224, rounded up
    assert len({tuple(size) for size in crop.batch(range(31)).sizes.tolist()}) > 5
    flip = DecodedImages.for_training(mixed, build_augmentation("flip", preprocessor), preprocessor)
    images = [Image.fromarray(array) for array in mixed.arrays]
    assert torch.equal(flip.batch(range(31)).values, preprocessor.geometry(images))
