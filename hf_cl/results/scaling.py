"""Does a ranking hold where there is more? Losses of methods over shots, epochs, ranks or sessions, and which curves cross.

Whether two curves cross is not asked of the fits: those of two equal curves cross in most resamples. What is claimed rests on differences
of measured means at the smallest and the largest x, each with its own interval.

"Rethinking conventional wisdom in machine learning: from generalization to scaling" (arXiv 2409.15156): what wins small may lose large.

Letters: n measured x, s seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.hints import nearest, refuse
from hf_cl.results.comparison import Group, compare, draw_of, protocol_of
from hf_cl.results.display import flat
from hf_cl.results.power_law import PowerLaw, crossings, fit
from hf_cl.results.results import MARK
from hf_cl.results.saved_run import Run

SESSIONS = "sessions"
"""The key whose values are the sessions of each run itself."""
LEAST, LEVEL = 3, 95.0
"""Measured x a curve needs; percent of the intervals."""
Claim = Literal["crossing", "first", "second", "none"]


@dataclass(frozen=True)
class Curve:
    """The losses of one method over x."""

    label: str
    x: tuple[float, ...]
    """Increasing."""
    losses: tuple[Mapping[str, float], ...]
    """At each x, by what a run was a draw of (its seed, and the orders the mean goes over)."""

    @property
    def means(self) -> NDArray[np.float64]:
        """[n]"""
        return np.array([np.mean([*at.values()]) for at in self.losses], dtype=np.float64)

    @property
    def saturating(self) -> bool:
        """Whether there are points enough for an asymptote, over at least a doubling of x."""
        return len(self.x) > LEAST and self.x[-1] >= 2 * self.x[0]

    @cached_property
    def fitted(self) -> PowerLaw:
        """Through the means, each counting the same: weights by the few seeds' own variances made intervals of crossings hold the truth in
        73 of 100 cases instead of 93."""
        return fit(self.x, self.means, saturating=self.saturating)[0]


@dataclass(frozen=True)
class Difference:
    """Loss of the first minus the second at one x, with its bootstrap interval; None for single seeds."""

    x: float
    mean: float
    interval: tuple[float, float] | None

    @property
    def winner(self) -> Literal["first", "second", "none"]:
        """Who has the smaller loss, where the interval leaves 0 out."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "none"
        return "first" if self.interval[1] < 0 else "second"


@dataclass(frozen=True)
class Pair:
    """Two curves over the x that both have."""

    first: Curve
    second: Curve
    differences: tuple[Difference, ...]
    crossing: float | None = None
    """Where the fits meet between the measured ends; None where they do not."""
    crossing_interval: tuple[float, float] | None = None
    possible: float | None = None
    """Where the fits meet beyond the largest x, as far as it was asked for."""

    @property
    def claim(self) -> Claim:
        """ "crossing": one wins at the smallest x, the other at the largest; "first", "second": that one wins at every x; else "none"."""
        winners: list[Literal["first", "second", "none"]] = [difference.winner for difference in self.differences]
        if not winners:
            return "none"
        if {winners[0], winners[-1]} == {"first", "second"}:
            return "crossing"
        return winners[0] if len({*winners}) == 1 else "none"

    @property
    def keeps_order(self) -> bool:
        """Whether the means stand in the same order at both ends."""
        return self.differences[0].mean * self.differences[-1].mean > 0


@dataclass(frozen=True)
class Scaling:
    """Curves of methods over one key, and what of their ranking may be said."""

    key: str
    metric: str
    is_error: bool
    """Whether losses are 1 - an accuracy."""
    curves: tuple[Curve, ...]
    pairs: tuple[Pair, ...]
    asymptotes: tuple[tuple[float, float] | None, ...]
    """Interval of E of each curve; None where there is none."""
    floored: int = 0
    """Errors of 0, which count as half an image."""


def scale_curves(
    runs: Sequence[Run],
    key: str,
    metric: str | None = None,
    *,
    across: Iterable[str] = (),
    resamples: int = 1000,
    extrapolate: float = 1.0,
    seed: int = 0,
) -> Scaling:
    """Losses over `key`, a power law through each, and which pairs of methods cross.

    Args:
        runs: of one protocol, which may differ in `key` and seed. Those that differ in nothing else are a curve.
        key: of protocol or settings, with numbers: shots, epochs, r, batch_size, weight_decay; or `sessions`, of each run itself.
        metric: accuracies become errors; anything else is a loss, less being better. None: the final accuracy, or that after each session.
        across: keys of the protocol that may differ too, such as class_order_seed.
        resamples: of the seeds, for the intervals.
        extrapolate: how many times the largest x a crossing may be mentioned as possible.
        seed: of the resampling.

    Raises ValueError, with all that is wrong, for a key that is none or has no positive numbers, a curve of fewer than three x, values that
    are missing or negative; and what `compare` raises.
    """
    known = {name for run in runs for name in (*protocol_of(run), *flat(run.settings))}
    if key not in {*known, SESSIONS}:
        raise ValueError(f"{key!r} is no key of protocol or settings.{nearest(key, known)} Or `sessions`, of each run itself.")
    groups = compare(runs, across, scale=None if key == SESSIONS else key).groups
    metric = metric or ("session_accuracy" if key == SESSIONS else "final_accuracy")
    is_error = "accuracy" in metric or metric.startswith(MARK)
    points = {group.label: _points(group, key, metric, across) for group in groups}
    refuse(_faults(points, key, metric))
    floored = sum(value >= 1 for at in points.values() for values in at.values() for value in values.values()) if is_error else 0
    least = 0.5 / max(1, sum(runs[0].results.test_counts))
    curves = tuple(_curve(label, at, is_error, least) for label, at in points.items())
    sampled = _Resampled(curves, resamples, seed)
    pairs = tuple(_pair(sampled, i, j, extrapolate) for i, j in combinations(range(len(curves)), 2))
    return Scaling(key, metric, is_error, curves, pairs, tuple(map(sampled.asymptote, range(len(curves)))), floored)


Points = dict[float, dict[str, float]]
"""x -> draw -> value of the metric."""


def _points(group: Group, key: str, metric: str, across: Iterable[str]) -> Points:
    found: Points = {}
    for run in group.runs:
        draw = repr(draw_of(run, across))
        if key == SESSIONS:
            values = run.results.metrics.get(metric)
            if isinstance(values, Sequence):
                for t, value in enumerate(values):
                    found.setdefault(float(t + 1), {})[draw] = float("nan") if value is None else float(value)
            continue
        x = value_of(run, key)
        if x is not None:
            found.setdefault(x, {})[draw] = run.results.numbers.get(metric, float("nan"))
    return dict(sorted(found.items()))


def value_of(run: Run, key: str) -> float | None:
    """The number that a run's protocol or settings have under a key; None where it is none."""
    for values in (protocol_of(run), flat(run.settings)):
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _faults(points: Mapping[str, Points], key: str, metric: str) -> list[str]:
    faults = []
    for label, at in points.items():
        values = [value for some in at.values() for value in some.values()]
        if len(at) < LEAST:
            faults.append(f"{label} was measured at {len(at)} numeric values of {key}; a curve needs {LEAST}.")
        elif min(at) <= 0:
            faults.append(f"{label} has {key} = {min(at):g}; a power law needs positive values.")
        elif any(np.isnan(values)):
            faults.append(f"{label} has runs without the number {metric!r}.")
        elif min(values) < 0:
            faults.append(f"{label} has {metric} = {min(values):.3g}; a loss that has a power law is not negative.")
    return faults


def _curve(label: str, at: Points, is_error: bool, least: float) -> Curve:
    losses = tuple({draw: max(1 - value, least) if is_error else value for draw, value in some.items()} for some in at.values())
    return Curve(label, tuple(at), losses)


class _Resampled:
    """Means of curves over seeds drawn with replacement. Curves that share their seeds at an x share the draws: differences are paired.

    Resampled means of s seeds vary less than means of s seeds do, by (s - 1) / s; they are spread by as much.
    """

    def __init__(self, curves: Sequence[Curve], resamples: int, seed: int) -> None:
        self.curves, generator = curves, np.random.default_rng(seed)
        drawn: dict[tuple[float, tuple[str, ...]], NDArray[np.int64]] = {}
        self.means: list[NDArray[np.float64]] = []  # [R, n] of each curve
        for curve in curves:
            columns = []
            for x, at in zip(curve.x, curve.losses, strict=True):
                draws = tuple(sorted(at))
                if (x, draws) not in drawn:
                    drawn[x, draws] = generator.integers(len(draws), size=(resamples, len(draws)))
                values = np.array([at[draw] for draw in draws])
                wider = math.sqrt(len(draws) / max(1, len(draws) - 1))
                columns.append(values.mean() + wider * (values[drawn[x, draws]].mean(1) - values.mean()))
            self.means.append(np.stack(columns, 1))
        self._fits: dict[int, list[PowerLaw]] = {}

    def fits(self, number: int) -> list[PowerLaw]:
        """A power law of each resample of a curve."""
        if number not in self._fits:
            curve = self.curves[number]
            self._fits[number] = fit(curve.x, self.means[number], saturating=curve.saturating)
        return self._fits[number]

    def asymptote(self, number: int) -> tuple[float, float] | None:
        """Interval of E; None where there are too few points, or single seeds."""
        curve = self.curves[number]
        if not curve.saturating or any(len(at) < 2 for at in curve.losses):
            return None
        return _interval(np.array([law.E for law in self.fits(number)]))

    def difference(self, i: int, j: int, x: float) -> Difference:
        first, second = self.curves[i], self.curves[j]
        a, b = first.x.index(x), second.x.index(x)
        single = len(first.losses[a]) < 2 or len(second.losses[b]) < 2
        mean = float(first.means[a] - second.means[b])
        return Difference(x, mean, None if single else _interval(self.means[i][:, a] - self.means[j][:, b]))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _pair(sampled: _Resampled, i: int, j: int, extrapolate: float) -> Pair:
    first, second = sampled.curves[i], sampled.curves[j]
    common = sorted({*first.x} & {*second.x})
    if len(common) < 2:
        return Pair(first, second, ())
    pair = Pair(first, second, tuple(sampled.difference(i, j, x) for x in common))
    low, high = common[0], common[-1]
    beyond = crossings(first.fitted, second.fitted, high, high * extrapolate) if extrapolate > 1 else []
    possible = beyond[0] if beyond and pair.claim != "crossing" else None
    if pair.claim != "crossing":
        return Pair(first, second, pair.differences, possible=possible)
    found = crossings(first.fitted, second.fitted, low, high)
    each = [crossings(a, b, low, high) for a, b in zip(sampled.fits(i), sampled.fits(j), strict=True)]
    places = np.array([some[-1] for some in each if some])
    return Pair(first, second, pair.differences, found[-1] if found else None, _interval(places) if len(places) else None)
