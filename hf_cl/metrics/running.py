"""The metrics of `accuracies`, `transfer` and `few_shot`, kept while a run goes on: a session costs its own row, not the matrix.

The definitions are those functions; here stand running maxima and values that later rows do not change. Both give the same bits, since
the means run over the same values in the same order (a test says so). What is computed from a whole matrix runs through here too.

Shapes: t session (from 0), C classes seen so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_cl.metrics import accuracies, few_shot

Row = NDArray[np.float64]
_FIRST_ROOM = 1024


class _Values:
    """Numbers that are appended, in one array; it grows by doubling."""

    def __init__(self) -> None:
        self._room, self._count = np.empty(_FIRST_ROOM), 0

    def extend(self, values: Row) -> None:
        count = self._count + len(values)
        if count > len(self._room):
            grown = np.empty(max(count, 2 * len(self._room)))
            grown[: self._count] = self._room[: self._count]
            self._room = grown
        self._room[self._count : count] = values
        self._count = count

    @property
    def all(self) -> Row:
        return self._room[: self._count]


class RunningForgetting:
    """Forgetting and transfer of one accuracy matrix, row by row; see `hf_cl.metrics.transfer`."""

    def __init__(self) -> None:
        self._row = self._best = self._best_before = np.empty(0)  # of row t: [t + 1], [t + 1], [t]
        self._first = _Values()  # R[j][j]
        self._drops: list[float | None] = []
        self._gains = _Values()  # R[i][j] - R[j][j] for i = 1, 2, ... and j < i

    def add(self, row: Row) -> None:
        """Row t [t + 1]; NaN: no test images."""
        last = len(row) - 1
        if last:
            self._drops.append(accuracies.mean(self._row - row[:last]))
            self._gains.extend(row[:last] - self._first.all)
        self._first.extend(row[last:])
        self._best_before = self._best
        self._best = np.append(np.fmax(self._best, row[:last]), row[last])
        self._row = row

    @property
    def forgetting(self) -> float | None:
        return accuracies.mean(self._best_before - self._row[:-1])

    @property
    def forgetting_clipped(self) -> float | None:
        return accuracies.mean(self._best[:-1] - self._row[:-1])

    @property
    def forgetting_stepwise(self) -> float | None:
        return accuracies.mean(self._drops)

    @property
    def backward_transfer(self) -> float | None:
        return accuracies.mean(self._row[:-1] - self._first.all[:-1])

    @property
    def backward_transfer_all_pairs(self) -> float | None:
        return accuracies.mean(self._gains.all)


class RunningMatrix:
    """Every metric of the matrix in which all seen classes compete."""

    def __init__(self) -> None:
        self.transfer = RunningForgetting()
        self._by_image: list[float | None] = []
        self._by_session: list[float | None] = []
        self._base: list[float | None] = []
        self._novel: list[float | None] = []
        self._new: list[float | None] = []
        self._old: list[float | None] = []
        self._pool, self._weights = _Values(), _Values()

    def add(self, row: Row, counts: NDArray[np.int64]) -> None:
        """Row t and the test counts, [t + 1] each."""
        self.transfer.add(row)
        self._by_image.append(accuracies.weighted_mean(row, counts))
        self._by_session.append(accuracies.mean(row))
        self._base.append(accuracies.mean(row[:1]))
        self._novel.append(accuracies.weighted_mean(row[1:], counts[1:]))
        self._new.append(accuracies.mean(row[-1:]))
        self._old.append(accuracies.weighted_mean(row[:-1], counts[:-1]))
        self._pool.extend(row)
        self._weights.extend(counts.astype(float))

    def metrics(self) -> dict[str, float | Sequence[float | None] | None]:
        """By name, after at least one row."""
        transfer, harmonic = self.transfer, few_shot.harmonic_accuracy(self._base, self._novel)
        return {
            "final_accuracy": self._by_image[-1],
            "final_accuracy_unweighted": self._by_session[-1],
            "average_incremental_accuracy": accuracies.mean(self._by_image),
            "average_incremental_accuracy_unweighted": accuracies.mean(self._by_session),
            "session_accuracy": [*self._by_image],
            "session_accuracy_unweighted": [*self._by_session],
            "pooled_accuracy": accuracies.weighted_mean(self._pool.all, self._weights.all),
            "forgetting": transfer.forgetting,
            "forgetting_clipped": transfer.forgetting_clipped,
            "forgetting_stepwise": transfer.forgetting_stepwise,
            "backward_transfer": transfer.backward_transfer,
            "backward_transfer_all_pairs": transfer.backward_transfer_all_pairs,
            "performance_drop": few_shot.performance_drop(self._by_image),
            "performance_drop_relative": few_shot.performance_drop_relative(self._by_image),
            "base_accuracy": [*self._base],
            "novel_accuracy": [*self._novel],
            "harmonic_accuracy": harmonic,
            "average_harmonic_accuracy": few_shot.average_harmonic_accuracy(harmonic),
            "new_session_accuracy": [*self._new],
            "old_accuracy": [*self._old],
        }


class RunningWithin:
    """Base classes among themselves, novel ones among themselves."""

    def __init__(self) -> None:
        self._base: list[float | None] = []
        self._novel: list[float | None] = []

    def add(self, row: Row, counts: NDArray[np.int64]) -> None:
        self._base.append(accuracies.mean(row[:1]))
        self._novel.append(accuracies.weighted_mean(row[1:], counts[1:]))

    def metrics(self) -> dict[str, float | Sequence[float | None] | None]:
        return {
            "base_accuracy_within": [*self._base],
            "novel_accuracy_within": [*self._novel],
            "harmonic_accuracy_within": few_shot.harmonic_accuracy(self._base, self._novel),
        }


class RunningTaskAware:
    """Each image among the classes of its own session."""

    def __init__(self) -> None:
        self._transfer = RunningForgetting()
        self._by_image: list[float | None] = []

    def add(self, row: Row, counts: NDArray[np.int64]) -> None:
        self._transfer.add(row)
        self._by_image.append(accuracies.weighted_mean(row, counts))

    def metrics(self) -> dict[str, float | Sequence[float | None] | None]:
        return {"task_aware_accuracy": [*self._by_image], "forgetting_task_aware": self._transfer.forgetting}


class RunningClasses:
    """Accuracies of single classes; NaN for a class without test images."""

    def __init__(self) -> None:
        self._row = self._best = self._best_before = np.empty(0)  # [C], [C], [classes before]
        self._means: list[float | None] = []

    def add(self, row: Row) -> None:
        """[C] of session t."""
        self._best_before = self._best
        self._best = np.concatenate([np.fmax(self._best, row[: len(self._best)]), row[len(self._best) :]])
        self._row = row
        self._means.append(accuracies.mean(row[~np.isnan(row)]))

    def metrics(self) -> dict[str, float | Sequence[float | None] | None]:
        drops = self._best_before - self._row[: len(self._best_before)]
        return {"class_mean_accuracy": [*self._means], "forgetting_per_class": accuracies.mean(drops[~np.isnan(drops)])}
