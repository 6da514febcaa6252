"""What the present model says of a data set between two epochs, without a trace in the run.

Shapes: n images, D feature width, C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cl.contracts import ImageDataset, Trainer
from hf_cl.probes.subset import Subset


@torch.no_grad()
def logits_of(trainer: Trainer, data: ImageDataset) -> tuple[Tensor, Tensor]:
    """Logits [n, C] in float32 and labels [n], on every process; draws nothing and leaves modes as they were.

    A head that is fitted when a session ends is judged by the rows that training moves: its fit knows nothing of the session yet.
    """
    found = trainer.features_of(data)  # first: it sets the modes of the whole model, and sets them back
    head, training = trainer.head, trainer.head.training
    head.train(head.fits)
    with trainer.accelerator.autocast():
        logits = head(found.features)  # [n, C]
    head.train(training)
    return logits.float(), found.labels


def evenly(data: ImageDataset, most: int) -> ImageDataset:
    """At most so many of its images, evenly spread."""
    return data if len(data) <= most else Subset(data, positions(len(data), most))


def positions(count: int, most: int) -> Sequence[int]:
    """At most `most` of `count` positions, evenly spread."""
    return range(count) if count <= most else [int((i + 0.5) * count / most) for i in range(most)]
