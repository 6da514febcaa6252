"""What two groups of runs differ by, run by run: paired by seed, and by class order or data set where the mean goes over those.

Groups with the same seeds share more than their protocol: splits, orders and draws of the seed are the same, so differences within a pair
vary less than the runs do, and say more than two means with their deviations.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy import stats

from hf_cl.results.comparison import Comparison, Group, draw_of
from hf_cl.results.results import MARK

ALL_PAIRS = 5
"""Up to so many groups each pair has its rows; of more, each group stands against the first."""
LEVEL = 0.95
CLASSES = 300
"""Rows of the table of classes: those in which groups differ most."""


@dataclass(frozen=True)
class PairedDifference:
    """A metric of one group minus that of another, over the draws that both have."""

    first: str
    second: str
    metric: str
    differences: tuple[float, ...]
    """Of each common draw, in order of the first group's runs."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % by Student's t with n - 1 degrees of freedom; None for a single draw."""
        count = len(self.differences)
        if count < 2:
            return None
        reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * statistics.stdev(self.differences) / math.sqrt(count)
        return self.mean - reach, self.mean + reach

    @property
    def higher(self) -> int:
        """Draws in which the first group's number is the higher one."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def lower(self) -> int:
        return sum(difference < 0 for difference in self.differences)

    @property
    def sign_test(self) -> float | None:
        """How often so uneven a count or a more uneven one would come by chance, two-sided, ties left out; None where all are ties."""
        decided = self.higher + self.lower
        return float(stats.binomtest(self.higher, decided).pvalue) if decided else None


@dataclass(frozen=True)
class ClassRow:
    """Accuracy of one class in each group, as a mean over runs."""

    name: str
    accuracies: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """Of the other groups from the first."""
        return tuple(accuracy - self.accuracies[0] for accuracy in self.accuracies[1:])


def paired_differences(comparison: Comparison) -> list[PairedDifference]:
    """Of each metric and pair of groups that share a draw; nothing where no pair does.

    Marks are left out: they are other models, which groups with one stream share.
    """
    groups, metrics = comparison.groups, [name for name in comparison.metrics if not name.startswith(MARK)]
    pairs = [*combinations(groups, 2)] if len(groups) <= ALL_PAIRS else [(other, groups[0]) for other in groups[1:]]
    found = [_difference(comparison, first, second, metric) for metric in metrics for first, second in pairs]
    return [difference for difference in found if difference.differences]


def _difference(comparison: Comparison, first: Group, second: Group, metric: str) -> PairedDifference:
    mine, theirs = ({repr(draw_of(run, comparison.across)): run.results.numbers.get(metric) for run in g.runs} for g in (first, second))
    pairs = [(value, theirs.get(draw)) for draw, value in mine.items()]
    return PairedDifference(first.label, second.label, metric, tuple(a - b for a, b in pairs if a is not None and b is not None))


def class_rows(groups: Sequence[Group]) -> list[ClassRow]:
    """Classes that every run has tested after its last session, those with the largest differences first; nothing for a single group."""
    tested = [[run.results.per_class_accuracy or {} for run in group.runs] for group in groups]
    rows = []
    for name in tested[0][0] if len(groups) > 1 else ():
        accuracies = [[found.get(name) for found in group] for group in tested]
        known = [[value for value in of_group if value is not None] for of_group in accuracies]
        if all(len(some) == len(of_group) for some, of_group in zip(known, accuracies, strict=True)):
            rows.append(ClassRow(name, tuple(statistics.fmean(some) for some in known)))
    return sorted(rows, key=lambda row: -max(map(abs, row.differences)))[:CLASSES]
