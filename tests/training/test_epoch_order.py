"""How steps are planned, and their micro-batches cut over the processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from loop_case import processor
from stream import Images

from hf_cl.contracts import FeatureSet
from hf_cl.images import Forms, PixelStore, Preprocessor, build_augmentation
from hf_cl.settings import TrainingSettings
from hf_cl.training.epoch_order import Replay, spread
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.step import MicroBatch

COUNT = 19


def steps(rank: int, world: int, accumulation: int) -> list[list[tuple[list[int], float]]]:
    """(sample ids, weight) of each micro-batch of each step of an epoch, by batches of 8: the last has three samples."""
    return [[(micro.batch["index"].tolist(), micro.weight) for micro in step] for step in shares_of(rank, world, accumulation)]


def shares_of(rank: int, world: int, accumulation: int, replay: Replay | None = None) -> list[list[MicroBatch]]:
    """The micro-batches of each step of an epoch."""
    settings = TrainingSettings(batch_size=8, gradient_accumulation_steps=accumulation, augmentation="none")
    accelerator = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))
    preprocessor = Preprocessor(processor())
    store = PixelStore(Forms(preprocessor, build_augmentation("none", preprocessor)))
    stream = ImageStream(store, settings, accelerator)  # type: ignore[arg-type]
    ids = torch.arange(COUNT)
    features = FeatureSet(torch.zeros(COUNT, 1), ids % 2, ids)
    dataset = Images([0] * COUNT)
    taken = stream.steps(dataset, (0, 0), size=8, epoch=0, start=0, views=1, features=features, replay=replay)  # type: ignore[arg-type]
    return list(taken)


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (2, 2), (4, 1), (4, 2), (8, 1)])
def test_weights_make_the_mean_of_the_global_batch(world, accumulation):
    alone, ranks = steps(0, 1, accumulation), [steps(rank, world, accumulation) for rank in range(world)]
    for number, step in enumerate(alone):
        total = sum(len(ids) for ids, weight in step if weight)
        for micro, (ids, _) in enumerate(step):
            shares = [rank[number][micro] for rank in ranks]
            assert [i for share, weight in shares if weight for i in share] == ids
            for share, weight in shares:
                assert weight == pytest.approx(len(share) * world / total) or weight == 0.0


@pytest.mark.parametrize("world", [2, 4])
def test_a_process_without_a_share_runs_an_image_of_the_same_micro_batch(world):
    """A loss that compares the samples of all processes, such as a contrast, would meet others there than on one process."""
    alone, ranks = steps(0, 1, 2), [steps(rank, world, 2) for rank in range(world)]
    fillers = [(ids, alone[n][m][0]) for rank in ranks for n, step in enumerate(rank) for m, (ids, weight) in enumerate(step) if not weight]
    assert fillers
    for ids, micro_batch in fillers:
        assert len(ids) == 1 and set(ids) <= set(micro_batch)


def test_spreading_is_even():
    assert spread([0, 1, 2, 3], [9, 8]) == [0, 9, 1, 2, 8, 3]
    assert spread([1, 2], []) == [1, 2] and spread([1], [5, 6, 7]) == [5, 1, 6, 7]
