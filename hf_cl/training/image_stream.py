"""From data sets to batches on the device: steps of an epoch, features of a data set, logits for evaluation.

Shapes: B batch, C classes seen so far, D feature width, n images of a data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import FeatureSet, ImageDataset, Outputs, Phase
from hf_cl.images import PixelStore, StoredImages, eval_batches, plan, sequential, train_batches
from hf_cl.settings import TrainingSettings
from hf_cl.training.step import MicroBatch


class ImageStream:
    """Hands out the batches of data sets whose pixels the store keeps.

    Order and augmentation are pure functions of seeds and positions, so neither a resume nor the number of processes changes them.
    """

    def __init__(self, store: PixelStore, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.store, self.settings, self.accelerator = store, settings, accelerator
        self.preprocessor, self.augmentation = store.forms.preprocessor, store.forms.augmentation
        self._plan: list[list[int]] = []

    def steps_per_epoch(self, dataset: ImageDataset, phase: Phase) -> int:
        """Optimizer steps that one epoch over `dataset` takes; the last, smaller batch counts."""
        return math.ceil(len(dataset) / (phase.batch_size or self.settings.batch_size))

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
                chosen = torch.as_tensor(micro, device=data.labels.device)
                yield {"features": data.features[chosen], "labels": data.labels[chosen], "index": data.index[chosen]}

    def samples_of_step(self, dataset: ImageDataset, batch: int) -> list[int]:
        """Sample ids of a global batch of the current epoch."""
        return [int(dataset.indices[position]) for position in self._plan[batch]]

    # Features and logits of whole data sets
    @torch.no_grad()
    def features(self, classifier: AnyClassifier, dataset: ImageDataset, epoch: int | None) -> FeatureSet:
        """Features of all images, as the augmentation of `epoch` draws them (None: as evaluation sees them), on every process."""
        outputs, labels, index = self._run(classifier, self.batches(dataset, epoch), lambda out: out.features)
        gathered = [self._gather(part, len(dataset)) for part in (outputs, labels, index)]
        return FeatureSet(*gathered)

    @torch.no_grad()
    def logits(self, classifier: AnyClassifier, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and labels [n] of this process's share of the images, each image on one process."""
        batches = self.batches(dataset, epoch=None, test=True)
        logits, labels, _ = self._run(classifier, batches, lambda out: out.logits)
        return logits, labels

    def batches(self, dataset: ImageDataset, epoch: int | None, *, test: bool = False) -> Iterator[dict[str, Tensor]]:
        """This process's share of the images in batches, as the augmentation of `epoch` draws them (None: as evaluation sees them).

        To be called on every process. The pixels of a `test` are kept for later sessions.
        """
        accelerator, settings, device = self.accelerator, self.settings, self.accelerator.device
        shares = sequential(len(dataset), settings.eval_batch_size, rank=accelerator.process_index, world=accelerator.num_processes)
        shares = [share for share in shares if share]
        if epoch is None:
            stored = self.store.evaluation(dataset, [position for share in shares for position in share], test=test)
            return eval_batches(stored, self.preprocessor, shares, device=device)
        return self._augmented(self.store.training(dataset), shares, epoch, views=1)

    def _augmented(self, stored: StoredImages, batches: Sequence[Sequence[int]], epoch: int, views: int) -> Iterator[dict[str, Tensor]]:
        seed, device = self.settings.seed, self.accelerator.device
        return train_batches(stored, self.augmentation, self.preprocessor, batches, seed=seed, epoch=epoch, views=views, device=device)

    def _run(
        self, classifier: AnyClassifier, batches: Iterable[dict[str, Tensor]], select: Callable[[Outputs], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        training = classifier.training
        classifier.eval()
        chosen, labels, index = [], [], []
        for batch in batches:
            with self.accelerator.autocast():
                wanted = select(classifier.outputs(batch["pixel_values"]))
            chosen.append(wanted.to(torch.promote_types(wanted.dtype, torch.float32)))
            labels.append(batch["labels"])
            index.append(batch["index"])
        classifier.train(training)
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
