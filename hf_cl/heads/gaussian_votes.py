"""How the Gaussian head chooses shrinkage, own share and temperature: images that are held back vote, session by session.

A session's held-back images are classified among all classes seen, by statistics that do not hold them; hits and losses add up over the
sessions, since a choice by the last session alone follows its noise; where known classes come again, losses fade.

Shapes: B held-back images, C classes, S candidates for the own share, A candidates for the shrinkage, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.heads.gaussian_fit import Gaussians, own_scores, own_spectra, posterior, shared_layer, whiten

Choice = float | Literal["auto", "rule"]
Fuse = Callable[[Tensor], Tensor]
"""[B, C] scores of the head -> those it judges by."""

SHRINKAGES = (0.001, 0.01, 0.03, 0.1, 0.3)
OWN_SHARES = (0.0, 0.05, 0.1, 0.2)
TEMPERATURES = 10 ** (torch.arange(41, dtype=torch.float64) / 20)
FEW = 10
"""Images of a class below which its own covariance is bounded by the rule; a session with as many on average votes."""
FEW_SHARE = 0.1
"""Share of classes with few images above which no class has a covariance of its own: those of the base alone would win everything."""
VOTES = 100
"""Held-back images that must have voted before their choice is taken; the rule until then."""


@dataclass(frozen=True)
class Form:
    """What a class's Gaussian is."""

    covariance: Literal["shared", "mixed", "low_rank"]
    rank: int | None = None
    """Directions of an own covariance; None: all it has."""
    flatness: float | None = None
    """beta of the prior over class means; None: no prior."""


@dataclass(frozen=True)
class Setting:
    """One candidate; None: by rule."""

    shrinkage: float | None
    own_share: float | None
    careful: bool = False
    """The own share is bounded by the rule where a class has few images, as a choice of votes is."""

    def shrinkage_of(self, of: Gaussians) -> float:
        return of.rule_shrinkage() if self.shrinkage is None else self.shrinkage

    def shares_of(self, of: Gaussians, counts: Tensor) -> Tensor:
        """[C] own shares; `counts` [C] of all images decide which classes have few."""
        rule = of.rule_own_shares()
        if self.own_share is None:
            return rule
        if not self.careful:
            return of.own_shares(self.own_share)
        few = counts < FEW
        if few.double().mean() > FEW_SHARE:
            return torch.zeros_like(rule)
        share = torch.full_like(rule, self.own_share)
        return of.own_shares(torch.where(few, torch.minimum(share, rule), share))


@dataclass(frozen=True)
class Candidates:
    """The settings to choose from, [S][A], and the one without votes."""

    shrinkage: Choice
    own_share: Choice
    form: Form

    @property
    def shrinkages(self) -> tuple[float | None, ...]:
        if self.shrinkage == "auto":
            return SHRINKAGES if self.form.flatness is None else (None,)
        return (None if self.shrinkage == "rule" else float(self.shrinkage),)

    @property
    def own_shares(self) -> tuple[float | None, ...]:
        if self.form.covariance == "shared":
            return (0.0,)
        if self.own_share == "auto":
            return OWN_SHARES
        return (None if self.own_share == "rule" else float(self.own_share),)

    @property
    def careful(self) -> bool:
        return self.own_share == "auto"

    @property
    def grid(self) -> list[Setting]:
        return [Setting(a, w, self.careful) for w in self.own_shares for a in self.shrinkages]

    @property
    def without_votes(self) -> Setting:
        """Every "auto" by rule."""
        shares = self.own_shares
        return Setting(self.shrinkages[0] if len(self.shrinkages) == 1 else None, shares[0] if len(shares) == 1 else None)

    @property
    def curves(self) -> int:
        """One per candidate, and one for the rule."""
        return len(self.grid) + 1

    def scores(self, of: Gaussians, rows: Tensor, counts: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(number of the candidate, [B, C] scores of `rows` [B, D]) for all of the grid, then the setting without votes as the last."""
        settings = [*self.grid, self.without_votes]
        by_shrinkage: dict[float, list[int]] = {}
        for number, setting in enumerate(settings):
            by_shrinkage.setdefault(setting.shrinkage_of(of), []).append(number)
        for shrinkage, numbers in by_shrinkage.items():
            shares = torch.stack([settings[number].shares_of(of, counts) for number in numbers])  # [S, C]
            yield from zip(numbers, _scores(self.form, of, shrinkage, shares, rows), strict=True)


def _scores(form: Form, of: Gaussians, shrinkage: float, shares: Tensor, rows: Tensor) -> Tensor:
    """[S, B, C]."""
    lower = of.cholesky(shrinkage)
    if form.flatness is not None:
        found = posterior(of, lower, form.flatness).scores(whiten(lower, rows - of.center))
    elif form.covariance == "shared":
        weight, bias = shared_layer(of, lower)
        found = rows @ weight.T + bias
    else:
        return own_scores(of, lower, own_spectra(of, lower, form.rank), shares, rows, form.rank)
    return found.expand(len(shares), *found.shape)


@dataclass
class Votes:
    """The tally: what a head keeps in buffers."""

    hits: Tensor  # [S * A] int64
    voted: Tensor  # [] int64, images
    curves: Tensor  # [S * A + 1, T] float64, summed negative log likelihood at each temperature; the last: without votes

    @staticmethod
    def none(candidates: Candidates) -> Votes:
        count = candidates.curves
        zeros = torch.zeros(count, len(TEMPERATURES), dtype=torch.float64)
        return Votes(torch.zeros(count - 1, dtype=torch.int64), torch.zeros((), dtype=torch.int64), zeros)

    def fade(self, before: int, now: int) -> None:
        """Let the losses so far count less where known classes come again, as in a domain-incremental stream.

        A covariance of few images is far too sure, and less so the more it has seen. Losses of the first sessions, which are the largest,
        would go on speaking for a fit that is long another; so they fade by the square of the share of images that it had: of a third, to a
        ninth. Class-incremental sessions bring no more images of known classes, and nothing fades.

        Args:
            before: images of the classes that were known, before the session.
            now: images of the same classes, the session's own among them.
        """
        if before:
            self.curves *= (before / now) ** 2

    def add(
        self, candidates: Candidates, of: Gaussians, rows: Tensor, labels: Tensor, counts: Tensor, images: float, fuse: Fuse | None = None
    ) -> None:
        """Let a session's held-back images vote.

        Args:
            of: the statistics of all other images.
            rows: [B, D] float64, what is held back, with `labels` [B].
            counts: [C] images of each class, the held-back ones among them.
            images: the session's images a class, on average.
            fuse: what becomes of the scores before they are judged; None: nothing.
        """
        if not len(rows):
            return
        votes = images >= FEW
        for number, scores in candidates.scores(of, rows, counts):
            scores = scores if fuse is None else fuse(scores)  # noqa: PLW2901
            self.curves[number] += losses(scores, labels)
            if votes and number < len(self.hits):
                self.hits[number] += (scores.argmax(1) == labels).sum()
        self.voted += len(rows) if votes else 0

    def choose(self, candidates: Candidates) -> tuple[Setting, int]:
        """The setting with the most hits, of equal ones the first by own share and then by shrinkage; and the number of its curve."""
        if len(self.hits) > 1 and self.voted >= VOTES:
            number = int(self.hits.argmax())
            return candidates.grid[number], number
        return candidates.without_votes, candidates.curves - 1

    def temperature(self, curve: int) -> float:
        """The temperature of the least loss; 1 where nothing was held back."""
        return float(TEMPERATURES[self.curves[curve].argmin()])


def losses(scores: Tensor, labels: Tensor) -> Tensor:
    """[T] summed negative log likelihood of `scores` [B, C] divided by each temperature."""
    return torch.stack([F.cross_entropy(scores / t, labels, reduction="sum") for t in TEMPERATURES])
