"""The store of a run's pixels, in one process."""

import gc
import io
import threading

import numpy as np
import pytest
from PIL import Image

from hf_cl.images import plan
from hf_cl.images.decode import EXACT, SHRUNK, shrink
from hf_cl.images.pixels import TASK_BYTES, TASK_IMAGES


class Part:
    """Some of the pictures of another data set."""

    def __init__(self, whole, positions):
        self.source, self.positions = whole, list(positions)
        self.labels, self.indices = [whole.labels[p] for p in self.positions], [whole.indices[p] for p in self.positions]

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, position):
        return self.source[self.positions[position]]


def equal(images, arrays):
    return len(images) == len(arrays) and all(np.array_equal(image, array) for image, array in zip(images, arrays, strict=True))


def test_small_pictures_come_back_as_they_were_whatever_their_sizes(pictures, store_of):
    dataset = pictures([(9, 7), (9, 7), (20, 24), (5, 90)])
    stored = store_of().training(dataset)
    assert equal(stored.images([3, 0, 3]), [dataset.arrays[position] for position in (3, 0, 3)])
    assert stored.labels.tolist() == dataset.labels
    assert stored.indices.tolist() == dataset.indices
    assert stored.images([]) == []


def test_each_picture_is_decoded_once_for_training_tests_and_features(pictures, store_of):
    whole = pictures([(40, 60)] * (2 * TASK_IMAGES + 3))  # larger than what is kept of them
    train, test, store = Part(whole, range(100)), Part(whole, range(100, len(whole))), store_of()
    for _ in range(2):
        list(store.training(train).batches(plan(100, 8, (0,))))
        list(store.evaluation(test, range(len(test)), test=True).batches([range(len(test))]))
        list(store.evaluation(train, range(100), test=False).batches([range(100)]))
        store.evaluation(Part(whole, [101, 105]), range(2), test=False).images([0, 1])  # as the stability probe asks
    assert whole.reads == [1] * len(whole)


@pytest.mark.parametrize("side", [20, 60])
def test_what_was_decoded_to_look_at_it_is_not_decoded_again(pictures, store_of, side, preprocessor):
    whole, store = pictures([(side, side + 5)] * 30), store_of()
    for row, array in zip(whole.indices, whole.arrays, strict=True):
        store.put(whole, row, Image.fromarray(array))
    stored, tested = store.training(Part(whole, range(20))), store.evaluation(Part(whole, range(20, 30)), range(10), test=True)
    images = [Image.fromarray(array) for array in whole.arrays]
    assert equal(stored.images(range(20)), [shrink(image, 28) for image in images[:20]])
    assert equal(tested.images(range(10)), list(preprocessor.geometry(images[20:]).permute(0, 2, 3, 1).numpy()))
    assert whole.reads == [0] * 30


def test_the_last_sessions_pixels_go_and_tests_stay(pictures, store_of):
    whole, store = pictures([(28, 28)] * 40), store_of(budget=40 * 28 * 28 * 3)
    sessions, tests = [Part(whole, range(10 * t, 10 * t + 8)) for t in range(3)], Part(whole, [8, 9])
    first = store.training(sessions[0])
    store.evaluation(tests, range(2), test=True)
    store.evaluation(sessions[0], range(8), test=False)
    assert first.num_kept == 8
    for session in sessions[1:]:
        assert store.training(session).num_kept == 8
        assert first.num_kept == 0
        assert store.evaluation(sessions[0], [], test=False).num_kept == 0
        assert store.evaluation(tests, [], test=True).num_kept == 2
    joined = Part(whole, [*range(20, 28), 30, 31])  # a session that trains on pictures of the last one
    before = list(whole.reads)
    assert store.training(joined).num_kept == 10
    assert [now - old for now, old in zip(whole.reads, before, strict=True)] == [0] * 30 + [1, 1] + [0] * 8


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("budget", [0, 1000, 4000])
def test_what_exceeds_the_budget_is_decoded_on_demand(pictures, store_of, sizes, budget):
    dataset = pictures([(6, 6) if sizes == "equal" else (6, 6 + i % 3) for i in range(60)])
    whole, part = store_of().training(dataset), store_of(budget=budget).training(dataset)
    assert part.num_kept <= budget // 108 and (part.num_kept > 0 or budget == 0)
    assert whole.num_kept == 60
    batches = [[59, 0, 5], [1, 2], [], [12, 13, 14, 15, 58]]
    for here, there in zip(whole.batches(batches), part.batches(batches), strict=True):
        assert equal(here, there)


def test_half_of_the_budget_is_for_training_alone(pictures, store_of):
    whole = pictures([(24, 24)] * 40)
    size = 24 * 24 * 3
    store = store_of(budget=20 * size)
    tests = [Part(whole, range(8 * t, 8 * t + 8)) for t in range(3)]
    kept = [store.evaluation(test, range(8), test=True).num_kept for test in tests]
    assert kept == [8, 2, 0]
    assert store.training(Part(whole, range(30, 40))).num_kept == 10


def test_training_pixels_that_memory_has_no_room_for_lie_on_disk(pictures, store_of, tmp_path):
    dataset = pictures([(20, 20 + i % 5) for i in range(100)])
    store = store_of(budget=10_000, cache=tmp_path)
    stored = store.training(dataset)
    assert stored.num_kept == 100
    assert equal(stored.images(range(100)), dataset.arrays)
    assert dataset.reads == [1] * 100
    next_session = store.training(pictures([(20, 20)] * 10, seed=1))
    assert next_session.num_kept == 10 and stored.num_kept == 0
    del store, stored, next_session
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_task_is_counted_in_bytes(pictures, store_of, monkeypatch):
    """No thread holds more than a few megabytes of pictures at full size beside the one it decodes."""
    largest = []
    dataset = pictures([(1200, 1600)] * 12)
    store = store_of("none")
    exact = store.forms.exact
    monkeypatch.setattr(store.forms, "exact", lambda images: largest.append(len(images)) or exact(images))
    store.training(dataset)
    assert max(largest) == TASK_BYTES // (3 * 1200 * 1600) + 1 == 3


def test_leaving_a_stream_early_ends_its_threads(pictures, store_of):
    stored = store_of(budget=0).training(pictures([(6, 6)] * 50))
    before = threading.active_count()
    stream = stored.batches([[position] for position in range(50)])
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_data_set_without_pictures(pictures, store_of):
    nothing = store_of().training(pictures([]))
    assert len(nothing) == 0
    assert list(nothing.batches([])) == []


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


def test_a_vanished_file_is_named(tmp_path, store_of):
    for position in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{position}.png")
    stored = store_of(budget=0).training(Files(tmp_path))
    (tmp_path / "1.png").unlink()
    with pytest.raises(RuntimeError, match=r"Image 1 \(sample 6\) cannot be read: .*1\.png"):
        stored.images([0, 1])
    with pytest.raises(RuntimeError, match=r"1\.png"):
        store_of().training(Files(tmp_path))


def test_a_cut_off_file_is_named(tmp_path, store_of):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:45])
    with pytest.raises(RuntimeError, match=r"Image 1 \(sample 6\) cannot be read"):
        store_of().training(Files(tmp_path))


def test_an_image_that_breaks_only_when_its_pixels_are_read_is_named(pictures, store_of):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")

    class Lazy(pictures):
        def __getitem__(self, position):
            return {"image": Image.open(io.BytesIO(buffer.getvalue()[:45])), "label": 0, "index": 0}

    with pytest.raises(RuntimeError, match=r"Image 0 \(sample 100\) cannot be read"):
        store_of().training(Lazy([(4, 4)]))


def test_an_image_that_is_not_rgb_is_refused(tmp_path, store_of):
    for position in range(2):
        Image.new("L", (4, 4)).save(tmp_path / f"{position}.png")
    with pytest.raises(RuntimeError, match="has mode L; the data set must give RGB"):
        store_of().training(Files(tmp_path))


@pytest.mark.parametrize(("size", "shrunk"), [((100, 60), (50, 30)), ((30, 200), (30, 200)), ((61, 90), (30, 44)), ((20, 25), (20, 25))])
def test_shrink_bounds_the_shorter_side_and_keeps_the_shape(size, shrunk):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert shrink(image, 30).shape == (*shrunk, 3)


def test_shrink_is_antialiased():
    stripes = np.full((120, 120, 3), 64, dtype=np.uint8)
    stripes[::2] = 192
    assert np.abs(shrink(Image.fromarray(stripes), 30).astype(float) - 128).max() < 8  # 64 where rows are dropped


def test_training_starts_from_the_source_or_from_the_geometry(mixed, store_of, preprocessor):
    cropped = store_of("crop_flip").training(mixed)
    assert cropped.form == SHRUNK
    sizes = {image.shape[:2] for image in cropped.images(range(31))}
    assert all(min(size) <= 28 for size in sizes)  # 24 * 256 / 224, rounded up
    assert len(sizes) > 5
    flipped = store_of("flip").training(mixed)
    assert flipped.form == EXACT
    images = [Image.fromarray(array) for array in mixed.arrays]
    assert equal(flipped.images(range(31)), list(preprocessor.geometry(images).permute(0, 2, 3, 1).numpy()))
