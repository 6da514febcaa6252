"""A head that is fitted as if some images of its session had never come, which can then judge it.

Shapes: n images of the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hf_cl.contracts import FeatureSet, Head, ImageDataset, Session, Trainer
from hf_cl.heads.fitted import learned
from hf_cl.memory.class_statistics import ClassStatistics


class WithoutSome:
    """The trainer as such a head sees it, to be handed to its `end_session`.

    Args:
        head: that is fitted; not the run's own.
        rest: [n] bool, the images that came.
        before: gives the statistics of earlier sessions, which are added to; asked for where the head asks for statistics.
        role: the state of the backbone whose features the head is fitted to; None: the present one.
    """

    def __init__(
        self,
        trainer: Trainer,
        head: Head,
        session: Session,
        rest: Tensor,
        before: Callable[[], ClassStatistics],
        role: str | None = None,
    ) -> None:
        self._trainer, self.head, self._session, self._rest = trainer, head, session, rest.nonzero()[:, 0]
        self._before, self._how = before, {} if role is None else {"role": role}
        self._statistics: ClassStatistics | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def features_of(self, dataset: ImageDataset, **how: Any) -> FeatureSet:
        found = self._trainer.features_of(dataset, **self._how, **how)
        if dataset is not self._session.train:
            return found
        return FeatureSet(*(rows[self._rest.to(rows.device)] for rows in (found.features, found.labels, found.index)))

    def class_statistics(self, session: Session) -> ClassStatistics:
        if self._statistics is None:
            data = self.features_of(session.train)
            own = learned(self.head, session, data.labels)
            found = self._before()
            found.count_session(session.id, self.head.embed(data.features[own]), data.labels[own], data.index[own])
            self._statistics = found
        return self._statistics

    @property
    def statistics(self) -> ClassStatistics:
        return self.class_statistics(self._session)
