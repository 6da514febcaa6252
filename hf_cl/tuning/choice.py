"""Which candidate is taken, what it costs to find it, and when the base stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.integrate import quad
from scipy.stats import norm

from hf_cl.tuning.space import Space, Values


@dataclass(frozen=True)
class Measured:
    """What came out of the runs of a candidate, over one length."""

    accuracy: float | None
    """The objective, the mean over seeds; None where training diverged."""
    images: int
    """Validation images it was measured on."""
    seconds: float = 0.0
    run: str = ""
    """Folder of its first run."""

    @property
    def worth(self) -> float:
        """The objective; 0 where training diverged."""
        return 0.0 if self.accuracy is None else self.accuracy

    @property
    def error(self) -> float:
        """One standard error of a share of so many images."""
        return math.sqrt(max(self.worth * (1 - self.worth), 0.25 / max(1, self.images)) / max(1, self.images))


@dataclass(frozen=True)
class Candidate:
    """A point and what is known of it."""

    number: int
    """0: the base."""
    values: Values
    short: Measured | None = None
    full: Measured | None = None


@dataclass(frozen=True)
class Plan:
    """What a candidate costs, in full-length runs."""

    budget: float
    seeds: int = 1
    share: float = 1.0
    """Of a run's epochs that a short run has; 1: nothing can be shortened, so every candidate runs in full."""

    def __post_init__(self) -> None:
        if self.budget < 2 * self.seeds:
            raise ValueError(
                f"--budget {self.budget:g} does not pay for the base and a candidate: it must be at least {2 * self.seeds}, twice --seeds."
            )

    @property
    def short(self) -> float:
        """Of a candidate's first, short run; 0 where there is none, because nothing can be shortened or too little is left for it."""
        return self.share if self.share < 1 and self.budget - self.seeds >= self.share + self.seeds else 0.0

    def spent(self, candidates: Sequence[Candidate], running: int = 0) -> float:
        """By the base, by what ended, and at most by what runs."""
        ended = sum(self.short + (self.seeds if one.full is not None else 0) for one in candidates if one.number)
        return self.seeds + ended + running * (self.short + self.seeds)

    def may_ask(self, candidates: Sequence[Candidate], running: int = 0) -> bool:
        """Whether another candidate can be paid for, should it get to its full length."""
        return self.spent(candidates, running) + self.short + self.seeds <= self.budget + 1e-9


@dataclass(frozen=True)
class Choice:
    """What was taken and why."""

    taken: Candidate
    best: Candidate
    """Of all that ran in full, the base too, the one with the highest objective."""
    needed: float
    """By how much a candidate had to lie above the base."""


def choose(candidates: Sequence[Candidate], space: Space) -> Choice:
    """The base is candidate 0 and has run in full.

    Candidates within a standard error of the best one are ties: the smallest change from the base wins. Nothing is taken that lies above
    the base by less than `needed`: one standard error of a difference, and what the best of so many equal candidates lies above the rest
    by luck. (One standard error alone would drop a base that none of eight candidates beats in two of three searches.)
    """
    base = next(one for one in candidates if one.number == 0)
    finished = [one for one in candidates if one.full is not None]
    best = max(finished, key=lambda one: (_worth(one), -one.number))
    assert base.full is not None and best.full is not None
    rivals = len(finished) - 1
    needed = base.full.error * (math.sqrt(2) + expected_maximum(rivals)) if rivals else 0.0
    better = [one for one in finished if one.number and _worth(one) - base.full.worth > needed]
    ties = [one for one in better if _worth(one) >= best.full.worth - best.full.error]
    taken = min(ties, key=lambda one: (space.distance(one.values), -_worth(one), one.number)) if ties else base
    return Choice(taken, best, needed)


def _worth(candidate: Candidate) -> float:
    return candidate.full.worth if candidate.full is not None else -1.0


@cache
def expected_maximum(count: int) -> float:
    """Of `count` independent standard normal numbers."""
    if count < 2:
        return 0.0
    return quad(lambda x: x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), -8, 8)[0]
