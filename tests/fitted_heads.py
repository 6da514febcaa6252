"""What stands for a trainer where a head that is fitted is tested alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from hf_cl.contracts import FeatureSet, Head, Session
from hf_cl.memory import ClassStatistics


class FakeTrainer:
    """Gives features of a session and the one store of statistics."""

    def __init__(self, head: Head, seed: int = 0) -> None:
        self.head, self.seed = head, seed
        self.statistics = ClassStatistics(head.statistics)

    def generator_for(self, *key: int | str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(repr((self.seed, *key)).encode()))

    def features_of(self, dataset) -> FeatureSet:
        return FeatureSet(dataset.features.float(), dataset.labels, dataset.index)

    def class_statistics(self, session: Session) -> ClassStatistics:
        data = session.train
        self.statistics.count_session(session.id, data.features.float(), data.labels, data.index)
        return self.statistics


def session_of(session_id: int, names: Sequence[str], new: int, features: torch.Tensor, labels: torch.Tensor) -> Session:
    """A session whose images are features."""
    train = SimpleNamespace(features=features, labels=labels, index=torch.arange(len(labels)) + 1000 * session_id)
    return Session(session_id, tuple(names), tuple(names[len(names) - new :]), train=train, tests=())  # pyright: ignore[reportArgumentType]


def run(head: Head, sessions: Sequence[tuple[torch.Tensor, torch.Tensor]], seed: int = 0) -> FakeTrainer:
    """Grow and fit through sessions of (features, labels), as the loop does; the head begins without classes."""
    trainer = FakeTrainer(head, seed)
    for session_id, (features, labels) in enumerate(sessions):
        classes = max(int(labels.max()) + 1, head.num_classes)
        new = classes - head.num_classes
        names = [str(c) for c in range(classes)]
        head.grow(names[classes - new :])
        session = session_of(session_id, names, new, features, labels)
        head.begin_session(trainer, session)  # pyright: ignore[reportAttributeAccessIssue]
        head.end_session(trainer, session)  # pyright: ignore[reportAttributeAccessIssue]
    return trainer


def split_by_class(features: torch.Tensor, labels: torch.Tensor, sizes: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sessions of so many classes each."""
    sessions, first = [], 0
    for size in sizes:
        mine = (labels >= first) & (labels < first + size)
        sessions.append((features[mine], labels[mine]))
        first += size
    return sessions
