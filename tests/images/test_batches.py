import random
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cl.images import AUGMENTATIONS, Forms, PixelStore, build_augmentation, eval_batches, plan, sequential, train_batches

CPU = torch.device("cpu")


def training(dataset, preprocessor, batches, name="strong_blur", budget=4 << 30, **settings):
    augmentation = build_augmentation(name, preprocessor)
    stored = PixelStore(Forms(preprocessor, augmentation), budget=budget).training(dataset)
    settings = {"seed": 0, "epoch": 0} | settings
    return list(train_batches(stored, augmentation, preprocessor, batches, device=CPU, **settings))


def evaluation(dataset, preprocessor, budget=4 << 30):
    store = PixelStore(Forms(preprocessor, build_augmentation("none", preprocessor)), budget=budget)
    return store.evaluation(dataset, range(len(dataset)), test=True)


def by_sample(batches, key="pixel_values"):
    return {int(index): image for batch in batches for index, image in zip(batch["index"], batch[key], strict=True)}


def test_a_training_batch(mixed, preprocessor):
    batches = training(mixed, preprocessor, plan(31, 8, (0,)), views=2)
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 8, 7]
    first = batches[0]
    assert first.keys() == {"pixel_values", "pixel_values_1", "labels", "index"}
    assert first["pixel_values"].shape == (8, 3, 24, 24)
    assert first["pixel_values"].dtype == torch.float32
    assert first["pixel_values"].is_contiguous()
    assert first["labels"].dtype == first["index"].dtype == torch.int64
    assert first["labels"].tolist() == [(index - 100) % 3 for index in first["index"].tolist()]
    assert not torch.equal(first["pixel_values"], first["pixel_values_1"])


@pytest.mark.parametrize("name", ["crop_flip", "strong_blur", "crop_flip_small"])
def test_neither_processes_nor_batches_nor_a_resume_change_a_view(name, mixed, preprocessor):
    whole = training(mixed, preprocessor, plan(31, 8, (7,)), name, views=2)
    ranks = [training(mixed, preprocessor, plan(31, 8, (7,), rank=rank, world=3), name, views=2) for rank in range(3)]
    resumed = training(mixed, preprocessor, plan(31, 8, (7,), start=2), name, views=2)
    for key in ("pixel_values", "pixel_values_1"):
        expected, got = by_sample(whole, key), by_sample(chain(*ranks), key)
        assert expected.keys() == got.keys()
        assert all(torch.allclose(got[index], image, atol=1e-5) for index, image in expected.items())
        assert all(torch.equal(a[key], b[key]) for a, b in zip(resumed, whole[2:], strict=True)), "a resume is equal to the bit"


def test_seed_epoch_and_view_change_the_augmentation(mixed, preprocessor):
    order = sequential(31, 31)
    base = training(mixed, preprocessor, order, views=2)[0]
    others = [training(mixed, preprocessor, order, seed=1)[0], training(mixed, preprocessor, order, epoch=1)[0]]
    for other in [base["pixel_values_1"], *(batch["pixel_values"] for batch in others)]:
        assert (base["pixel_values"] != other).flatten(1).any(1).all()
    assert torch.equal(training(mixed, preprocessor, order)[0]["pixel_values"], base["pixel_values"])


def test_decoding_on_demand_gives_the_same_batches(mixed, preprocessor):
    order = plan(31, 8, (0,))
    kept, on_demand = (by_sample(training(mixed, preprocessor, order, budget=budget)) for budget in (4 << 30, 20_000))
    assert all(torch.equal(on_demand[index], image) for index, image in kept.items())


def test_evaluation_is_the_image_processor_to_the_bit(mixed, preprocessor):
    decoded = evaluation(mixed, preprocessor)
    parts = [list(eval_batches(decoded, preprocessor, sequential(31, 8, rank=rank, world=2), device=CPU)) for rank in range(2)]
    got = by_sample(chain(*parts))
    images = [Image.fromarray(array) for array in mixed.arrays]
    wanted = preprocessor.processor(images, return_tensors="pt")["pixel_values"]
    assert all(torch.equal(got[100 + i], image) for i, image in enumerate(wanted))
    assert len(got) == 31


def test_training_without_augmentation_sees_what_evaluation_sees(mixed, preprocessor):
    trained = training(mixed, preprocessor, sequential(31, 31), "none")[0]
    evaluated = next(eval_batches(evaluation(mixed, preprocessor), preprocessor, sequential(31, 31), device=CPU))
    assert all(torch.equal(trained[key], evaluated[key]) for key in evaluated)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_empty_share_of_a_batch_is_an_empty_batch(name, pictures, preprocessor):
    (batch,) = training(pictures([(30, 30)] * 3), preprocessor, [[]], name)
    assert batch["pixel_values"].shape == (0, 3, 24, 24)
    assert len(batch["labels"]) == len(batch["index"]) == 0


def test_global_generators_are_left_alone(mixed, preprocessor):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()

    before = states()
    for budget in (4 << 30, 0):
        training(mixed, preprocessor, plan(31, 8, (0,)), views=2, budget=budget)
    list(eval_batches(evaluation(mixed, preprocessor), preprocessor, sequential(31, 8), device=CPU))
    assert states() == before


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_step_reads_from_the_device(name, mixed, preprocessor):
    """A meta tensor has no values: whoever asked for one would fail here, and would make the host wait on a GPU."""
    augmentation = build_augmentation(name, preprocessor)
    decoded = PixelStore(Forms(preprocessor, augmentation)).training(mixed)
    settings = {"seed": 0, "epoch": 0, "views": 2, "device": torch.device("meta")}
    for batch in train_batches(decoded, augmentation, preprocessor, plan(31, 8, (0,)), **settings):
        assert {value.device.type for value in batch.values()} == {"meta"}
        assert batch["pixel_values"].shape == (len(batch["labels"]), 3, 24, 24)
        assert batch["pixel_values"].dtype == torch.float32
    tests = evaluation(mixed, preprocessor)
    for batch in eval_batches(tests, preprocessor, sequential(31, 8), device=torch.device("meta")):
        assert batch["pixel_values"].shape == (len(batch["labels"]), 3, 24, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_batches_without_waiting(mixed, preprocessor):
    device = torch.device("cuda")
    order = plan(31, 8, (0,))
    for name in AUGMENTATIONS:
        augmentation = build_augmentation(name, preprocessor)
        decoded = PixelStore(Forms(preprocessor, augmentation)).training(mixed)
        list(train_batches(decoded, augmentation, preprocessor, order[:1], seed=0, epoch=0, device=device))  # copies the table
        torch.cuda.set_sync_debug_mode("error")
        try:
            batches = list(train_batches(decoded, augmentation, preprocessor, order, seed=0, epoch=0, device=device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        on_cpu = by_sample(training(mixed, preprocessor, order, name))
        for index, image in by_sample(batches).items():
            assert (image.cpu() - on_cpu[index]).abs().mean() < 0.05, name
