"""What of a session a fitted head holds back to choose its settings by.

Shapes: n images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHARE = 5
"""One of so many images of a class is held back."""
FOLDS = SHARE
"""Parts of a session's images that can be held back in turn."""


def held_back(labels: Tensor, index: Tensor, seed: int, session: int) -> Tensor:
    """[n] bool: a fifth of the images of each class, at least one, and none of a class with a single image.

    A function of seed, session, class and sample id alone: not of the order of the images, nor of how many processes there are.

    Args:
        labels: [n] positions of the classes.
        index: [n] sample ids, unique in the session.
    """
    labels, index = labels.cpu(), index.cpu()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) > 1:
            lots = _lots(index[rows].numpy(), seed, session, label)
            order = np.lexsort((index[rows].numpy(), lots))
            chosen[rows[torch.from_numpy(order[: max(1, len(rows) // SHARE)])]] = True
    return chosen


def fold_of(labels: Tensor, index: Tensor, seed: int, session: int) -> Tensor:
    """[n] which of `FOLDS` parts each image belongs to, as even as may be in every class: a function of what `held_back` is one of."""
    labels, index = labels.cpu(), index.cpu()
    folds = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        order = np.lexsort((index[rows].numpy(), _lots(index[rows].numpy(), seed, session, label)))
        folds[rows[torch.from_numpy(order)]] = torch.arange(len(rows)) % FOLDS
    return folds


def _lots(index: np.ndarray, seed: int, session: int, label: int) -> np.ndarray:
    """[n] uint64: the sample ids, mixed with the rest (SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.random.SeedSequence([seed, session, label]).generate_state(
        1, np.uint64
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
