"""Continual evaluation: what happens between the ends of sessions (De Lange et al. 2023, arXiv 2205.13452, the stability gap).

A_j(n) is the accuracy on the test (sub)set of session j after optimizer step n of the run, evaluated on every session begun so far.
w counts evaluations, not steps, so numbers are comparable for equal `every` only. `windowed_plasticity` follows the definition; the
authors' code skips starting points below the running maximum there, which gives smaller values on some curves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_cl.metrics.accuracies import mean

LEARNING_CURVE_EVALUATIONS = 10


@dataclass
class StabilityTraces:
    """What the probe recorded; the field names are the keys of `continual` in results.json."""

    every: int
    """Optimizer steps between two evaluations."""
    window: list[int] = field(default_factory=lambda: [10, 100])
    """Windows w of the windowed metrics, in evaluations."""
    images_per_session: int | None = None
    """Size of the subset evaluated per session; None: all test images."""
    steps: list[int] = field(default_factory=list)
    """Optimizer steps n of the run at which was evaluated, increasing."""
    session_ends: list[int] = field(default_factory=list)
    """s_j, the last optimizer step of each session that has ended."""
    traces: list[list[float]] = field(default_factory=list)
    """traces[j]: A_j at the last len(traces[j]) entries of `steps`, since evaluation begins with the session."""
    untested: list[int] = field(default_factory=list)
    """Sessions without test images of their own, whose traces are empty: they bring no new class."""

    def evaluations(self, j: int) -> list[tuple[int, float]]:
        """(n, A_j(n)) in order."""
        trace = self.traces[j]
        return list(zip(self.steps[len(self.steps) - len(trace) :], trace, strict=True))

    def session_of(self, step: int) -> int:
        """The session that step n belongs to: the first that had not ended before it."""
        return bisect_left(self.session_ends, step)


def check_traces(continual: StabilityTraces) -> None:
    """Raises ValueError where steps do not increase, a trace is longer than they are, an accuracy is outside of 0 to 1, or w < 2."""
    steps = np.asarray(continual.steps)
    if (np.diff(steps) <= 0).any() or (np.diff(continual.session_ends) < 0).any():
        raise ValueError("steps must increase, and session_ends must not decrease.")
    if continual.every < 1 or any(w < 2 for w in continual.window):
        raise ValueError(f"every must be at least 1 and each window at least 2; got {continual.every} and {continual.window}.")
    for j, trace in enumerate(continual.traces):
        values = np.asarray(trace, float)
        if len(trace) > len(steps) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"traces[{j}] must hold at most {len(steps)} accuracies (one per step), each from 0 to 1.")


def min_accuracy(continual: StabilityTraces, at_step: int | None = None) -> list[float | None]:
    """min_accuracy[j]: lowest A_j(n) over s_j < n <= `at_step` (default: the last evaluation); None where there is no such evaluation."""
    now = _last_step(continual) if at_step is None else at_step
    lowest: list[float | None] = []
    for j in range(len(continual.traces)):
        ended = continual.session_ends[j] if j < len(continual.session_ends) else now
        after = [accuracy for step, accuracy in continual.evaluations(j) if ended < step <= now]
        lowest.append(min(after) if after else None)
    return lowest


def average_min_accuracy(continual: StabilityTraces, at_step: int | None = None) -> float | None:
    """min-ACC: mean over the earlier sessions of `min_accuracy`; None in session 0, or where one of them is undefined."""
    now = _last_step(continual) if at_step is None else at_step
    return mean_of_tested(continual, min_accuracy(continual, now)[: continual.session_of(now)])


def worst_case_accuracy(continual: StabilityTraces, at_step: int | None = None) -> float | None:
    """WC-ACC at a step n of session k: ( A_k(n) + sum_{j<k} min_accuracy[j] ) / (k + 1). `at_step` must be an evaluated step."""
    now = _last_step(continual) if at_step is None else at_step
    k = continual.session_of(now)
    if k >= len(continual.traces):
        return None
    present = dict(continual.evaluations(k)).get(now)
    return mean_of_tested(continual, [*min_accuracy(continual, now)[:k], present])


def windowed_forgetting(continual: StabilityTraces, w: int) -> list[float | None]:
    """WF_w per session: largest fall A_j(a) - A_j(b), a before b, inside w consecutive evaluations; at least 0. Headline: the mean.

    A trace shorter than w is one window; None without any evaluation.
    """
    return [_largest_rise([-value for value in trace], w) for trace in continual.traces]


def windowed_plasticity(continual: StabilityTraces, w: int) -> list[float | None]:
    """WP_w per session: largest rise A_j(b) - A_j(a), a before b, inside w consecutive evaluations; at least 0. Headline: the mean."""
    return [_largest_rise(trace, w) for trace in continual.traces]


def learning_curve_area(continual: StabilityTraces, b: int = LEARNING_CURVE_EVALUATIONS) -> float | None:
    """LCA_b: mean over sessions of the mean of A_j at the first b evaluations of session j; None where a session has fewer.

    Chaudhry et al. 2019 (arXiv 1812.00420).
    """
    areas: list[float | None] = []
    for j in range(len(continual.traces)):
        own = [accuracy for step, accuracy in continual.evaluations(j) if continual.session_of(step) == j]
        areas.append(mean(own[:b]) if len(own) >= b else None)
    return mean_of_tested(continual, areas)


def _last_step(continual: StabilityTraces) -> int:
    return continual.steps[-1] if continual.steps else 0


def mean_of_tested(continual: StabilityTraces, values: Sequence[float | None]) -> float | None:
    """Mean over the first sessions, but for those without test images; None where another value is missing or there is none."""
    tested = [value for j, value in enumerate(values) if j not in continual.untested]
    return None if None in tested else mean(tested)


def _largest_rise(trace: Sequence[float], w: int) -> float | None:
    if not len(trace):
        return None
    values = np.asarray(trace, float)
    lags = range(1, min(w, len(values)))
    return max([0.0, *(float((values[lag:] - values[:-lag]).max()) for lag in lags)])
