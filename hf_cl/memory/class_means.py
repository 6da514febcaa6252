"""The mean feature of each earlier class, trained on again: a memory without an image.

Shapes: D feature width; of a head that reads tokens a feature is a map [H, W, D].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_cl.contracts import FeatureSet, ImageDataset, Memory, Session, Trainer
from hf_cl.memory.exemplars import FOREIGN
from hf_cl.memory.kept_features import KeptFeatures

Copies = int | Sequence[int]


class ClassMeans(Memory):
    """Of every earlier class the mean of its features as they enter the head, some times over, among those of a session's images.

    For heads that train on features of a backbone which stands still: a mean is exact for as long as nothing before the head moves. It is
    the memory of NC-FSCIL (Yang et al., ICLR 2023) and Mamba-FSCIL. A class that comes again is merged by its number of images.

    Args:
        copies: how often a mean stands among a session's rows: a number, or a list with one number for each session from 1 on, whose last
            goes on for all that follow.
        base_copies: the same for classes of session 0; None: as the others.
        folder: for pictures of a memory; refused, there are none.

    Raises ValueError for copies below 1 and for a folder.
    """

    holds = "features"
    needs_first_session = "it keeps the mean features of session 0's classes, which are seen there alone"

    def __init__(self, copies: Copies = 10, base_copies: Copies | None = None, *, folder: str | None = None) -> None:
        for name, value in (("copies", copies), ("base_copies", base_copies)):
            numbers = [value] if isinstance(value, int) else list(value or ())
            if value is not None and (not numbers or min(numbers) < 1):
                raise ValueError(f"ClassMeans: {name} must be 1 or more, or a list of such numbers, got {value!r}.")
        if folder is not None:
            raise ValueError("memory_dir is for pictures, and a memory of type class_means keeps none; leave memory_dir out.")
        self.copies, self.base_copies = copies, base_copies
        self._sessions: Sequence[Session] = ()
        self._base = 0
        self._means: dict[int, NDArray[Any]] = {}  # on the host: of a head that reads tokens they are maps
        self._counts: dict[int, int] = {}
        self._ended = 0

    def begin_run(self, sessions: Sequence[Session], *, resumed: bool) -> None:
        self._sessions, self._means, self._counts, self._ended = tuple(sessions), {}, {}, 0
        self._base = len(self._sessions[0].class_names) if self._sessions else 0

    def sizes(self) -> list[int]:
        known: set[int] = set()
        sizes = []
        for number, session in enumerate(self._sessions):
            if number == self._ended:
                known = set(self._means)
            sizes.append(sum(self._times(label, number) for label in known))
            known |= set(np.asarray(session.train.labels).tolist())
        return sizes

    def images(self, session: Session) -> ImageDataset | None:
        """The means, each as often as it is copied, by class; their sample ids are those of no image."""
        if not self._means:
            return None
        labels = torch.tensor([label for label in sorted(self._means) for _ in range(self._times(label, session.id))])  # [m]
        rows = torch.from_numpy(np.stack([self._means[label] for label in labels.tolist()]))  # [m, D]
        return KeptFeatures(FeatureSet(rows, labels, FOREIGN + torch.arange(len(labels))))

    def _times(self, label: int, session_id: int) -> int:
        copies = self.copies if self.base_copies is None or label >= self._base else self.base_copies
        return copies if isinstance(copies, int) else copies[min(max(session_id, 1), len(copies)) - 1]

    def words(self) -> str:
        return "the mean feature of each class"

    def __len__(self) -> int:
        """0: it holds no image."""
        return 0

    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Take in the means of the session's classes."""
        data = trainer.features_of(session.train)
        features, labels = data.features.cpu().numpy(), data.labels.cpu().numpy()
        for label in np.unique(labels).tolist():
            mine = features[labels == label]
            before, count = self._counts.get(label, 0), len(mine)
            total = mine.sum(0, dtype=np.float64)
            if before:
                total += before * self._means[label].astype(np.float64)
            self._means[label], self._counts[label] = (total / (before + count)).astype(features.dtype), before + count
        self._ended = session.id + 1

    def state_dict(self) -> dict[str, Any]:
        labels = sorted(self._means)
        return {
            "ended": self._ended,
            "labels": labels,
            "counts": [self._counts[label] for label in labels],
            "means": [torch.from_numpy(self._means[label]) for label in labels],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._ended = int(state["ended"])
        self._means = {label: mean.numpy() for label, mean in zip(state["labels"], state["means"], strict=True)}
        self._counts = dict(zip(state["labels"], state["counts"], strict=True))
