"""From data sets to batches on the device: steps of an epoch, features of a data set, logits for evaluation.

Shapes: B batch, C classes seen so far, D feature width, n images of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.adapters.modes import evaluating
from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import FeatureSet, ImageDataset, Outputs
from hf_cl.images import PixelStore, StoredImages, eval_batches, plan, sequential, train_batches
from hf_cl.images.transfer import to_device
from hf_cl.settings import TrainingSettings
from hf_cl.training.step import MicroBatch


class TestBatch(NamedTuple):
    """Images of one or several tests."""

    __test__ = False  # the name begins with "Test": pytest must not collect it

    tests: NDArray[np.int64]  # [B] which of the data sets
    positions: NDArray[np.int64]  # [B] in that data set
    values: dict[str, Tensor]  # `pixel_values` [B, 3, S, S], `labels` [B], `index` [B], on the device


class ImageStream:
    """Hands out the batches of data sets whose pixels the store keeps.

    Order and augmentation are pure functions of seeds and positions, so neither a resume nor the number of processes changes them.
    """

    def __init__(self, store: PixelStore, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.store, self.settings, self.accelerator = store, settings, accelerator
        self.preprocessor, self.augmentation = store.forms.preprocessor, store.forms.augmentation
        self._plan: list[list[int]] = []

    # Training
    def steps(
        self, dataset: ImageDataset, key: Sequence[int], *, size: int, epoch: int, start: int, views: int, features: FeatureSet | None
    ) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each optimizer step of an epoch, from step `start` on.

        Args:
            dataset: the session's training images.
            key: what the order depends on.
            size: images per step, over all processes.
            epoch: of the session; augmentation depends on it.
            views: augmented views per image.
            features: take features instead of images.
        """
        self._plan = plan(len(dataset), size, key)
        parts = [self._parts(batch) for batch in self._plan[start:]]
        batches = self._feature_batches(features, parts) if features is not None else self._image_batches(dataset, parts, epoch, views)
        for step in parts:
            yield [MicroBatch(next(batches), weight) for _, weight in step]

    def _parts(self, batch: list[int]) -> list[tuple[list[int], float]]:
        """This process's share of a global batch, in micro-batches: positions and their weight.

        An empty share, which a last small batch may leave, runs one image with weight 0, so that every process makes the same calls. The
        image is one of the same micro-batch where it has any: a loss that compares the samples of all processes must meet no others.
        """
        accelerator, count = self.accelerator, self.settings.gradient_accumulation_steps
        parts = []
        for number in range(count):
            micro = batch[number * len(batch) // count : (number + 1) * len(batch) // count]
            rank, world = accelerator.process_index, accelerator.num_processes
            mine = micro[rank * len(micro) // world : (rank + 1) * len(micro) // world]
            parts.append((mine or micro[:1] or batch[:1], len(mine) * world / len(batch)))
        return parts

    def _image_batches(
        self, dataset: ImageDataset, parts: Sequence[Sequence[tuple[list[int], float]]], epoch: int, views: int
    ) -> Iterator[dict[str, Tensor]]:
        return self._augmented(self.store.training(dataset), [micro for step in parts for micro, _ in step], epoch, views)

    def _feature_batches(self, data: FeatureSet, parts: Sequence[Sequence[tuple[list[int], float]]]) -> Iterator[dict[str, Tensor]]:
        for step in parts:
            for micro, _ in step:
                chosen = to_device(torch.tensor(micro), data.labels.device)
                yield {"features": data.features[chosen], "labels": data.labels[chosen], "index": data.index[chosen]}

    def samples_of_step(self, dataset: ImageDataset, batch: int) -> list[int]:
        """Sample ids of a global batch of the current epoch."""
        return [int(dataset.indices[position]) for position in self._plan[batch]]

    # Features and logits of whole data sets
    @torch.no_grad()
    def features(
        self, classifier: AnyClassifier, dataset: ImageDataset, epoch: int | None, outputs: Callable[[Tensor], Outputs] | None = None
    ) -> FeatureSet:
        """Features of all images, as the augmentation of `epoch` draws them (None: as evaluation sees them), on every process.

        `outputs`: the forward, where it is not the classifier's own.
        """
        forward = outputs or classifier.outputs
        features, labels, index = self._run(classifier, self.batches(dataset, epoch), lambda pixels: forward(pixels).features)
        gathered = [self._gather(part, len(dataset)) for part in (features, labels, index)]
        return FeatureSet(*gathered)

    def test_batches(self, datasets: Sequence[ImageDataset]) -> Iterator[TestBatch]:
        """This process's share of the images of all `datasets`, one after the other, each image on one process, in full batches."""
        accelerator, bounds = self.accelerator, np.cumsum([0, *map(len, datasets)])
        rank, world = accelerator.process_index, accelerator.num_processes
        shares = [np.array(s) for s in sequential(int(bounds[-1]), self.settings.eval_batch_size, rank=rank, world=world) if s]
        tests = [np.searchsorted(bounds, share, side="right") - 1 for share in shares]
        pieces: list[list[list[int]]] = [[] for _ in datasets]  # of each data set the positions that each batch takes from it
        for share, test in zip(shares, tests, strict=True):
            for number in np.unique(test):
                pieces[number].append((share[test == number] - bounds[number]).tolist())
        parts = chain.from_iterable(self._pieces(dataset, own, test=True) for dataset, own in zip(datasets, pieces, strict=True) if own)
        for share, test in zip(shares, tests, strict=True):
            batch = [next(parts) for _ in np.unique(test)]
            values = batch[0] if len(batch) == 1 else {name: torch.cat([part[name] for part in batch]) for name in batch[0]}
            yield TestBatch(test, share - bounds[test], values)

    def _pieces(self, dataset: ImageDataset, batches: Sequence[Sequence[int]], *, test: bool) -> Iterator[dict[str, Tensor]]:
        stored = self.store.evaluation(dataset, list(chain.from_iterable(batches)), test=test)
        return eval_batches(stored, self.preprocessor, batches, device=self.accelerator.device)

    def batches(self, dataset: ImageDataset, epoch: int | None) -> Iterator[dict[str, Tensor]]:
        """This process's share of the images in batches, as the augmentation of `epoch` draws them (None: as evaluation sees them).

        To be called on every process.
        """
        accelerator = self.accelerator
        shares = sequential(len(dataset), self.settings.eval_batch_size, rank=accelerator.process_index, world=accelerator.num_processes)
        shares = [share for share in shares if share]
        if epoch is None:
            return self._pieces(dataset, shares, test=False)
        return self._augmented(self.store.training(dataset), shares, epoch, views=1)

    def _augmented(self, stored: StoredImages, batches: Sequence[Sequence[int]], epoch: int, views: int) -> Iterator[dict[str, Tensor]]:
        seed, device = self.settings.seed, self.accelerator.device
        return train_batches(stored, self.augmentation, self.preprocessor, batches, seed=seed, epoch=epoch, views=views, device=device)

    def _run(
        self, classifier: AnyClassifier, batches: Iterable[dict[str, Tensor]], wanted_of: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen, labels, index = [], [], []
        with evaluating(classifier):
            for batch in batches:
                with self.accelerator.autocast():
                    wanted = wanted_of(batch["pixel_values"])
                chosen.append(wanted.to(torch.promote_types(wanted.dtype, torch.float32)))
                labels.append(batch["labels"])
                index.append(batch["index"])
        return torch.cat(chosen), torch.cat(labels), torch.cat(index)

    def _gather(self, mine: Tensor, total: int) -> Tensor:
        """The rows of all processes in the data set's order: `sequential` cuts every batch into consecutive shares."""
        accelerator = self.accelerator
        if accelerator.num_processes == 1:
            return mine
        world, size = accelerator.num_processes, self.settings.eval_batch_size
        rows: Any = accelerator.pad_across_processes(mine, dim=0)
        gathered: Any = accelerator.gather(rows)
        rows = gathered.unflatten(0, (world, -1))  # [processes, most rows of a process, ...]
        shares = [sequential(total, size, rank=rank, world=world) for rank in range(world)]
        order = torch.empty(total, 2, dtype=torch.long)
        for rank, share in enumerate(shares):
            positions = torch.tensor([position for batch in share for position in batch], dtype=torch.long)
            order[positions] = torch.stack([torch.full_like(positions, rank), torch.arange(len(positions))], dim=1)
        return rows[order[:, 0], order[:, 1]]
