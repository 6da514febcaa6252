"""From data sets to batches on the device: steps of an epoch, features of a data set, logits for evaluation.

Shapes: B batch, C classes seen so far, D feature width, n images of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.adapters.modes import evaluating
from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import FeatureSet, ImageDataset, Outputs, domains_of
from hf_cl.images import PixelStore, StoredImages, eval_batches, exact_batches, labels_of, sequential, train_batches
from hf_cl.images.transfer import to_device
from hf_cl.settings import TrainingSettings
from hf_cl.training.epoch_order import MicroPositions, Replay, parts_of, planned
from hf_cl.training.feature_shelf import FeatureShelf, keys_of
from hf_cl.training.step import MicroBatch


class TestBatch(NamedTuple):
    """Images of one or several tests."""

    __test__ = False  # the name begins with "Test": pytest must not collect it

    tests: NDArray[np.int64]  # [B] which of the data sets
    positions: NDArray[np.int64]  # [B] in that data set
    values: dict[str, Tensor]  # `pixel_values` [B, 3, S, S], `labels` [B], `index` [B], on the device


Before = Callable[[Tensor, Sequence[int]], None]
"""Is given the pixels [B, 3, S, S] of a forward that is about to come, and their positions in the data set."""


class FeatureRows(NamedTuple):
    """Features of some images of a data set, on the device."""

    positions: Sequence[int]  # B of them
    rows: FeatureSet  # of B images; float32 or wider


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
        self,
        dataset: ImageDataset,
        key: Sequence[int],
        *,
        size: int,
        epoch: int,
        start: int,
        views: int,
        features: FeatureSet | None,
        replay: Replay | None = None,
        exposed: Sequence[int] | None = None,
        updates: int = 1,
    ) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each optimizer step of an epoch, from step `start` on.

        Args:
            dataset: the session's training images.
            key: what the order depends on.
            size: images per step, over all processes.
            epoch: of the session; augmentation depends on it.
            views: augmented views per image.
            features: take features instead of images.
            replay: how images of a memory, the last ones of `dataset`, come into the steps; None where it has none.
            exposed: of an ordered session, classes that have come by each of its images, which are then not shuffled.
            updates: steps on each batch, all with the same augmented images.
        """
        self._plan = planned(len(dataset), size, key, replay, ordered=exposed is not None)
        first, done = divmod(start, updates)
        process = self.accelerator.process_index, self.accelerator.num_processes
        parts = [parts_of(batch, self.settings.gradient_accumulation_steps, *process) for batch in self._plan[first:]]
        batches = self._feature_batches(features, parts) if features is not None else self._image_batches(dataset, parts, epoch, views)
        for number, (batch, step) in enumerate(zip(self._plan[first:], parts, strict=True), start=first):
            come = None if exposed is None else exposed[min((number + 1) * size, len(exposed)) - 1]
            values = [next(batches) | self._domains(dataset, micro) for micro, _ in step]
            parted = zip(values, step, strict=True)
            micro_batches = [self._micro_batch(batch_of, batch, micro, weight, replay, come) for batch_of, (micro, weight) in parted]
            for update in range(done if number == first else 0, updates):
                yield [replace(micro, update=update) for micro in micro_batches]

    def _micro_batch(
        self, values: dict[str, Tensor], batch: list[int], micro: list[int], weight: float, replay: Replay | None, come: int | None
    ) -> MicroBatch:
        if replay is None:
            return MicroBatch(values, weight, exposed=come)
        share = sum(position >= replay.own for position in batch) / len(batch)
        return MicroBatch(values | self._marks(micro, replay.own), weight, share, come)

    def _domains(self, dataset: ImageDataset, positions: list[int]) -> dict[str, Tensor]:
        """Of the images of a micro-batch, where the data know them."""
        domains = domains_of(dataset)
        if domains is None:
            return {}
        return {"domain": to_device(torch.tensor([int(domains[position]) for position in positions]), self.accelerator.device)}

    def _marks(self, positions: list[int], own: int) -> dict[str, Tensor]:
        """Which images of a micro-batch are a memory's, and which of its images they are."""
        exemplar = torch.tensor([position - own if position >= own else -1 for position in positions])
        replayed = exemplar >= 0
        return {"exemplar": to_device(exemplar, self.accelerator.device), "replayed": to_device(replayed, self.accelerator.device)}

    def _image_batches(
        self, dataset: ImageDataset, parts: Sequence[Sequence[MicroPositions]], epoch: int, views: int
    ) -> Iterator[dict[str, Tensor]]:
        return self._augmented(self.store.training(dataset), [micro for step in parts for micro, _ in step], epoch, views)

    def _feature_batches(self, data: FeatureSet, parts: Sequence[Sequence[MicroPositions]]) -> Iterator[dict[str, Tensor]]:
        for step in parts:
            for micro, _ in step:
                chosen = to_device(torch.tensor(micro), data.labels.device)
                yield {"features": data.features[chosen], "labels": data.labels[chosen], "index": data.index[chosen]}

    def samples_of(self, dataset: ImageDataset, batch: int) -> list[int]:
        """Sample ids of a global batch of the current epoch."""
        return [int(dataset.indices[position]) for position in self._plan[batch]]

    # Features and logits of whole data sets
    @torch.no_grad()
    def features(
        self,
        classifier: AnyClassifier,
        dataset: ImageDataset,
        epoch: int | None,
        outputs: Callable[[Tensor], Outputs] | None = None,
        shelf: FeatureShelf | None = None,
        *,
        test: bool = False,
        before: Before | None = None,
    ) -> FeatureSet:
        """Features of all images, as the augmentation of `epoch` draws them (None: as evaluation sees them), on every process.

        Args:
            outputs: the forward, where it is not the classifier's own.
            shelf: where features of this forward, not augmented, are kept beyond the run.
            test: whether the images are a test's, whose pixels are kept otherwise.
            before: called ahead of each forward.
        """
        forward = outputs or classifier.outputs
        with evaluating(classifier):
            sets = [found.rows for found in self.rows(forward, dataset, epoch=epoch, test=test, shelf=shelf, before=before)]
            if not sets:  # this process has no share: it must know the width all the same
                batch = next(self._batches(dataset, [[0]], epoch, test))
                one = self._forward(forward, batch["pixel_values"], [0], before), batch["labels"], batch["index"]
                sets = [FeatureSet(*(part[:0] for part in one))]
        parts = ([s.features for s in sets], [s.labels for s in sets], [s.index for s in sets])
        gathered = [self._gather(torch.cat(part), len(dataset)) for part in parts]
        return FeatureSet(*gathered)

    @torch.no_grad()
    def rows(
        self,
        forward: Callable[[Tensor], Outputs],
        dataset: ImageDataset,
        *,
        epoch: int | None = None,
        test: bool = False,
        shelf: FeatureShelf | None = None,
        before: Before | None = None,
    ) -> Iterator[FeatureRows]:
        """The features of this process's share of the images, batch by batch; the forward is in eval mode. Arguments as of `features`."""
        if shelf is not None:
            yield from self._rows_by_shelf(forward, dataset, test, shelf, before)
            return
        shares = self._shares(dataset)
        for share, batch in zip(shares, self._batches(dataset, shares, epoch, test), strict=True):
            features = self._forward(forward, batch["pixel_values"], share, before)
            yield FeatureRows(share, FeatureSet(features, batch["labels"], batch["index"]))

    def _rows_by_shelf(
        self, forward: Callable[[Tensor], Outputs], dataset: ImageDataset, test: bool, shelf: FeatureShelf, before: Before | None
    ) -> Iterator[FeatureRows]:
        """What the shelf has comes from there; each other picture goes through the backbone once, however often the data set has it."""
        shares, device = self._shares(dataset), self.accelerator.device
        if not shares:
            return
        stored = self.store.evaluation(dataset, list(chain.from_iterable(shares)), test=test)
        first = keys_of(next(exact_batches(stored, self.preprocessor, shares[:1]))[1])
        with shelf.filling(first):
            for share, pixels in exact_batches(stored, self.preprocessor, shares):
                keys = keys_of(pixels)
                missing = shelf.missing(keys)
                if missing:
                    chosen = to_device(pixels[[*missing.values()]], device)  # [b, 3, S, S]
                    values, positions = self.preprocessor.normalize(chosen), [share[place] for place in missing.values()]
                    shelf.add([*missing], self._forward(forward, values, positions, before))
                own = labels_of(stored, share, device)
                yield FeatureRows(share, FeatureSet(to_device(shelf.rows(keys), device), own["labels"], own["index"]))

    def _forward(
        self, forward: Callable[[Tensor], Outputs], pixel_values: Tensor, positions: Sequence[int], before: Before | None
    ) -> Tensor:
        if before is not None:
            before(pixel_values, positions)
        with self.accelerator.autocast():
            features = forward(pixel_values).features  # [B, D]
        return features.to(torch.promote_types(features.dtype, torch.float32))

    def _shares(self, dataset: ImageDataset) -> list[list[int]]:
        """The positions of each of this process's batches."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return [share for share in sequential(len(dataset), self.settings.eval_batch_size, rank=rank, world=world) if share]

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
        shares = self._shares(dataset)
        for share, batch in zip(shares, self._batches(dataset, shares, epoch, test=False), strict=True):
            yield batch | self._domains(dataset, share)

    def _batches(
        self, dataset: ImageDataset, shares: Sequence[Sequence[int]], epoch: int | None, test: bool
    ) -> Iterator[dict[str, Tensor]]:
        if epoch is None:
            return self._pieces(dataset, shares, test=test)
        return self._augmented(self.store.training(dataset), shares, epoch, views=1)

    def _augmented(self, stored: StoredImages, batches: Sequence[Sequence[int]], epoch: int, views: int) -> Iterator[dict[str, Tensor]]:
        seed, device = self.settings.seed, self.accelerator.device
        return train_batches(stored, self.augmentation, self.preprocessor, batches, seed=seed, epoch=epoch, views=views, device=device)

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
            order[positions] = torch.stack([torch.full_like(positions, rank), torch.arange(len(positions))], dim=1)  # [n, 2]
        return rows[order[:, 0], order[:, 1]]
