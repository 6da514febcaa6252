"""`--feature_cache`: features on disk, shared by runs. What goes through the backbone is counted."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loop_case import backbone, processor
from stream import Images, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Outputs
from hf_cl.images import Forms, PixelStore, Preprocessor, build_augmentation
from hf_cl.methods import frozen, lora, nearest_class_mean
from hf_cl.training.feature_shelf import FeatureShelf, keys_of
from hf_cl.training.image_stream import ImageStream

ALL = 2 * (18 + 8)
"""Training and test images of two sessions."""


def run(folder, method, *, base=None, process=None, cache=None, sessions=2, **settings):
    """(images that the backbone saw, trainer) of a whole run that uses the cache beside `folder`."""
    values = {"batch_size": 8, "eval_batch_size": 5, "cpu": True, "augmentation": "none", **settings}
    made = TrainingSettings(output_dir=str(folder), feature_cache=str(cache or folder.parent / "cache"), **values)
    trainer = ContinualTrainer(base or backbone(0.0), process or processor(), method, Stream(sessions), made, quiet=True)
    seen = []
    vit: Any = trainer.backbone.vit
    vit.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    trainer.fit()
    return sum(seen), trainer


def numbers(folder):
    results = json.loads((folder / "results.json").read_text())
    return results["accuracy_matrix"], results["calibration"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with a run of class means and the cache that it has filled."""
    folder = tmp_path_factory.mktemp("shelf")
    seen, _ = run(folder / "first", nearest_class_mean())
    assert seen == ALL
    return folder


def test_other_heads_and_another_seed_cost_no_pass(filled):
    for number, method in enumerate((nearest_class_mean(), frozen({"type": "ridge"}), frozen())):
        seen, _ = run(filled / f"again-{number}", method, seed=number)
        assert seen == 0
    assert numbers(filled / "again-0") == numbers(filled / "first")


def test_more_sessions_cost_their_own_pictures(filled):
    assert run(filled / "more", nearest_class_mean(), sessions=3)[0] == 18 + 8


def test_the_same_base_with_another_classifier_shares(filled):
    base = backbone(0.0)
    base.classifier = torch.nn.Linear(32, 7)
    assert run(filled / "labels", nearest_class_mean(), base=base)[0] == 0


def test_a_changed_weight_and_a_changed_config_miss(filled):
    base = backbone(0.0)
    with torch.no_grad():
        base.vit.layernorm.bias[3] += 1e-6
    assert run(filled / "weight", nearest_class_mean(), base=base)[0] == ALL
    base = backbone(0.0)
    base.config.layer_norm_eps *= 2
    assert run(filled / "config", nearest_class_mean(), base=base)[0] == ALL


@pytest.mark.parametrize("change", [{"image_mean": [0.4, 0.5, 0.5]}, {"do_normalize": False}])
def test_a_changed_processor_misses(filled, change):
    process = processor()
    vars(process).update(change)
    assert run(filled / f"processor-{next(iter(change))}", nearest_class_mean(), process=process)[0] == ALL


def test_another_precision_misses_and_stays_near(filled):
    seen, trainer = run(filled / "bf16", nearest_class_mean(), mixed_precision="bf16")
    assert seen == ALL
    assert run(filled / "bf16 again", nearest_class_mean(), mixed_precision="bf16")[0] == 0
    shelf = trainer.features.shelf()
    assert shelf is not None
    assert shelf.rows(list(shelf._where)[:3]).dtype == torch.float32


def test_features_of_an_adapter_that_has_trained_are_not_kept(tmp_path):
    """No other run has that adapter."""
    run(tmp_path / "lora", lora(epochs=1, head={"type": "prototype"}, drift_map="none"))
    assert not list((tmp_path / "cache").rglob("features-*"))


def test_a_resumed_run_reads_what_the_first_part_left(tmp_path):
    run(tmp_path / "run", nearest_class_mean(), sessions=1)
    seen, _ = run(tmp_path / "run", nearest_class_mean(), resume="auto")
    assert seen == 18 + 8  # of the second session alone; without the cache the first test would go through again


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"Cannot write to .*; choose another --feature_cache"):
        run(tmp_path / "run", nearest_class_mean())


# The parts
SIZE = 6


def stream_of(rank=0, world=1):
    settings = TrainingSettings(eval_batch_size=4, augmentation="none")
    accelerator = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"), autocast=nullcontext)
    preprocessor = Preprocessor(processor())
    store = PixelStore(Forms(preprocessor, build_augmentation("none", preprocessor)))
    return ImageStream(store, settings, accelerator)  # pyright: ignore[reportArgumentType]


class Forward:
    """Features that say which picture it was; counts pictures."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pixel_values):
        self.seen += len(pixel_values)
        features = pixel_values.flatten(1)[:, :SIZE]
        return Outputs(features, features, features)


def rows_of(stream, dataset, shelf, forward):
    batches = stream.rows(forward, dataset, shelf=shelf)
    return {p: row for positions, rows in batches for p, row in zip(positions, rows.features, strict=True)}


def test_processes_fill_one_folder_and_each_reads_all_of_it(tmp_path):
    dataset = Images([0] * 21)
    forwards, found = [Forward(), Forward()], {}
    for rank in range(2):
        found |= rows_of(stream_of(rank, 2), dataset, FeatureShelf(tmp_path), forwards[rank])
    assert sum(forward.seen for forward in forwards) == 21
    alone = Forward()
    again = rows_of(stream_of(), dataset, FeatureShelf(tmp_path), alone)
    bare = rows_of(stream_of(), dataset, None, Forward())
    assert alone.seen == 0
    assert all(torch.equal(found[p], bare[p]) and torch.equal(again[p], bare[p]) for p in range(21))


def test_a_picture_that_comes_twice_goes_through_once(tmp_path):
    class Doubles(Images):
        def __getitem__(self, position):
            return super().__getitem__(position // 2)

    forward = Forward()
    found = rows_of(stream_of(), Doubles([0] * 10), FeatureShelf(tmp_path), forward)
    assert forward.seen == 5
    assert all(torch.equal(found[2 * i], found[2 * i + 1]) for i in range(5)) and len({tuple(r.tolist()) for r in found.values()}) == 5


def test_a_process_without_an_image_knows_the_width(monkeypatch):
    stream = stream_of(0, 2)
    monkeypatch.setattr(stream, "_gather", lambda mine, total: mine)
    found = stream.features(torch.nn.Identity(), Images([0]), None, Forward())
    assert found.features.shape == (0, SIZE) and found.labels.shape == found.index.shape == (0,)


def test_the_key_of_a_picture_is_its_pixels():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8))
    changed = pixels.clone()
    changed[1, 2, 7, 7] ^= 1
    a, b = keys_of(pixels), keys_of(changed)
    assert a == keys_of(pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))  # whatever the strides
    assert [x == y for x, y in zip(a, b, strict=True)] == [True, False, True] and {len(x) for x in a} == {16}


def key(number):
    return bytes([number]) * 16


def shelf_with(folder, numbers):
    shelf = FeatureShelf(folder)
    with shelf.filling([key(n) for n in numbers]):
        shelf.add([key(n) for n in numbers], torch.tensor(numbers)[:, None].expand(-1, 3).float())
    return shelf


def test_a_killed_write_and_a_damaged_file_are_no_entries(tmp_path, caplog):
    shelf_with(tmp_path, [1, 2])
    shelf_with(tmp_path, [3])
    whole = sorted(tmp_path.glob("features-*"), key=lambda path: path.stat().st_size)
    (tmp_path / f".writing-{whole[0].name}").write_bytes(whole[0].read_bytes()[:50])  # what a kill leaves
    whole[1].write_bytes(whole[1].read_bytes()[:-5])  # what a full disk of another program may leave
    shelf = FeatureShelf(tmp_path)
    assert list(shelf.missing([key(1), key(2), key(3)])) == [key(1), key(2)]
    assert shelf.rows([key(3)]).tolist() == [[3.0, 3.0, 3.0]]
    assert "no whole file" in caplog.text


def test_what_a_run_that_fails_has_computed_is_kept(tmp_path):
    shelf = FeatureShelf(tmp_path)
    with pytest.raises(KeyboardInterrupt), shelf.filling([key(1)]):
        shelf.add([key(1)], torch.ones(1, 3))
        raise KeyboardInterrupt
    assert not FeatureShelf(tmp_path).missing([key(1)])


def test_features_that_are_not_finite_are_left_to_their_reader(tmp_path):
    shelf = FeatureShelf(tmp_path)
    with shelf.filling([key(1)]):
        shelf.add([key(1), key(2)], torch.tensor([[torch.nan], [1.0]]))
    assert list(FeatureShelf(tmp_path).missing([key(1), key(2)])) == [key(1)]


def test_who_begins_the_same_pass_waits_for_it(tmp_path):
    order = []
    started = threading.Event()

    def first():
        shelf = FeatureShelf(tmp_path)
        with shelf.filling([key(1)]):
            started.set()
            time.sleep(0.2)
            shelf.add([key(1), key(2)], torch.ones(2, 3))
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    started.wait()
    late = FeatureShelf(tmp_path)
    with late.filling([key(1)]):
        order.append("second")
        assert not late.missing([key(1), key(2)])
    thread.join()
    assert order == ["first", "second"]
