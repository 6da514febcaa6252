"""What a run has to beat, measured beside it: heads that fit themselves to features of the untouched backbone.

Shapes: n images, B batch, D feature width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import FeatureSet, Head, ImageDataset, Part, Session
from hf_cl.heads import build_head
from hf_cl.heads.fitted import learned
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.training.kept_features import KeptFeatures
from hf_cl.training.needs import has_own_candidates
from hf_cl.training.services import Services

logger = logging.getLogger(__name__)

MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "means": ("nearest class mean, no adapter", {"type": "prototype"}),
    "gaussian": ("Gaussian head, no adapter", {"type": "gaussian"}),
}
"""A word of the setting `marks` -> its name in tables, and the head. ("joint" is a training of its own: `hf_cl.run.joint`.)"""


class Marks:
    """Fits the heads session by session on the run's own images, in one pass with the adapter bypassed, and none where there is no adapter:
    then the run's features are theirs.

    The numbers are those of `hf-cl train nearest_class_mean` and `frozen` with the run's seed. Nothing of it is in checkpoints: a run that
    was resumed looks once more at the images of past sessions.

    Args:
        words: of `MARKS`; others are passed over.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._specs = {word: MARKS[word] for word in words if word in MARKS}
        self._heads: dict[str, Head] = {}
        self._statistics = ClassStatistics()
        self._sessions = 0

    @torch.no_grad()
    def add(self, run: Services, session: Session) -> None:
        """After `session` of the run, and whatever came before it."""
        for past in run.plan.sessions[self._sessions : session.id + 1] if self._specs else ():
            if not _has_all_classes(past):
                logger.warning("The marks %s are left out: images of session %d are gone.", ", ".join(self._specs), past.id)
                self._specs = {}
                return
            self._fit(run, past)

    def _fit(self, run: Services, session: Session) -> None:
        features = run.features_of(session.train, role=_role(run)).features
        with torch.random.fork_rng([features.device] if features.is_cuda else []):  # rows are drawn, which the run must not notice
            self._grow(session, features)
        for head in self._heads.values():
            assert isinstance(head, Part)
            head.end_session(_Untouched(run, head, self._statistics), session)  # pyright: ignore[reportArgumentType]
        self._sessions = session.id + 1

    def _grow(self, session: Session, features: Tensor) -> None:
        if not self._heads:
            width, device = features.shape[1], features.device
            self._heads = {word: build_head(spec, width, 0, device=device) for word, (_, spec) in self._specs.items()}
            self._statistics = ClassStatistics(frozenset().union(*(head.statistics for head in self._heads.values())))
        for head in self._heads.values():
            head.grow(session.new_class_names)

    @torch.no_grad()
    def accuracies(self, run: Services, session: Session, kept: KeptFeatures) -> dict[str, float]:
        """Name -> accuracy on all tests of `session`, the last one that was added; each process looks at its share."""
        if not self._heads or not self._specs:
            return {}
        right = torch.zeros(len(self._heads) + 1, dtype=torch.int64, device=run.accelerator.device)
        heads = [head.eval() for head in self._heads.values()]
        for features, labels in _tests(run, session, kept):
            right += torch.stack([*((head(features).argmax(1) == labels).sum() for head in heads), labels.new_tensor(len(labels))])
        *correct, images = run.accelerator.reduce(right, reduction="sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        return {self._specs[word][0]: hits / images for word, hits in zip(self._heads, correct, strict=True)}


def check_marks(words: Sequence[str], sessions: Sequence[Session]) -> None:
    """Raise ValueError where tests have candidates of their own, which no mark knows."""
    if words and any(has_own_candidates(session) for session in sessions):
        raise ValueError(
            "marks are accuracies among all classes seen, and tests of this protocol have candidates of their own: leave marks out."
        )


def _role(run: Services) -> str | None:
    """The state of the backbone without an adapter; None where the run itself has none."""
    return "pretrained" if any(not name.startswith(("head.", "losses.")) for name, _ in run.named_parameters) else None


def _tests(run: Services, session: Session, kept: KeptFeatures) -> Iterator[tuple[Tensor, Tensor]]:
    """[B, D] and [B] of this process's share of the test images."""
    datasets = [test.data for test in session.tests]
    if _role(run) is None:
        for batch in kept.batches(run.classifier, datasets):
            yield batch.features, batch.labels
        return
    outputs = partial(run.frozen.run, "pretrained")
    for dataset in datasets:
        for _, rows in run.images.rows(outputs, dataset, test=True, shelf=run.features.shelf("pretrained")):
            yield rows.features, rows.labels


def _has_all_classes(session: Session) -> bool:
    return {*range(session.first_new_class, len(session.class_names))} <= {int(label) for label in session.train.labels}


class _Untouched:
    """The trainer as a head on the untouched backbone sees it."""

    def __init__(self, run: Services, head: Head, statistics: ClassStatistics) -> None:
        self._run, self.head, self.statistics = run, head, statistics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def features_of(self, dataset: ImageDataset) -> FeatureSet:
        return self._run.features_of(dataset, role=_role(self._run))

    def class_statistics(self, session: Session) -> ClassStatistics:
        data = self.features_of(session.train)
        own = learned(self.head, session, data.labels)
        self.statistics.count_session(session.id, data.features[own], data.labels[own], data.index[own])
        return self.statistics
