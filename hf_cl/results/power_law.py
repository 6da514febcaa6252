"""The saturating power law `L(x) = A x^-a + E` through measured losses.

Letters: n measured x, R curves that are fitted at once, G exponents tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
EXPONENTS = (0.05, 3.0)
"""Range of a; a curve that is flatter has no shape to speak of, one that is steeper has ended after its first point."""
_GRID, _GOLDEN = 120, (math.sqrt(5) - 1) / 2
_HALVINGS = 40


@dataclass(frozen=True)
class PowerLaw:
    """A, E >= 0 and a in `EXPONENTS`; `residual` is the sum of squares that is left."""

    A: float
    a: float
    E: float
    residual: float = 0.0

    def __call__(self, x: ArrayLike) -> Floats:
        return self.A * np.asarray(x, float) ** -self.a + self.E

    def __str__(self) -> str:
        return f"{self.A:.3g} x^-{self.a:.2g}{f' + {self.E:.3g}' if self.E else ''}"


def fit(x: ArrayLike, losses: ArrayLike, *, saturating: bool = True) -> list[PowerLaw]:
    """The least squares fit of each of R curves.

    Variable projection: for each exponent the best non-negative A and E are a formula, so the search is over a alone, by a grid and then
    golden sections.

    Args:
        x: [n], positive and increasing.
        losses: [R, n].
        saturating: False leaves E at 0, where three points are all there is.

    Raises ValueError for an x that is not positive.
    """
    x, y = np.asarray(x, float), np.atleast_2d(np.asarray(losses, float))
    if not (x > 0).all():
        raise ValueError(f"A power law needs positive x, got {x.tolist()}.")
    grid = np.geomspace(*EXPONENTS, _GRID)  # [G]
    best = _projected(x, y, np.broadcast_to(grid, (len(y), _GRID)), saturating)[2].argmin(1)  # [R]
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, _GRID - 1)]  # [R]
    for _ in range(_HALVINGS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        residuals = _projected(x, y, np.stack([left, right], 1), saturating)[2]  # [R, 2]
        lower = residuals[:, 0] < residuals[:, 1]
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    a = np.stack([low, (low + high) / 2, high, grid[best]], 1)  # [R, 4]
    A, E, residual = _projected(x, y, a, saturating)
    rows, chosen = np.arange(len(y)), residual.argmin(1)
    found = (values[rows, chosen].tolist() for values in (A, a, E, residual))
    return [PowerLaw(*values) for values in zip(*found, strict=True)]


def _projected(x: Floats, y: Floats, a: Floats, saturating: bool) -> tuple[Floats, Floats, Floats]:  # a: [R, G]
    """Best non-negative A and E of each curve at each exponent, and the residuals: [R, G] each."""
    u = x ** -a[..., None]  # [R, G, n]
    target = y[:, None]  # [R, 1, n]
    suu, su, s = (u * u).sum(-1), u.sum(-1), len(x)
    suy, sy = (u * target).sum(-1), target.sum(-1)
    alone = np.maximum(suy / suu, 0)  # E = 0
    if not saturating:
        return alone, np.zeros_like(alone), _residual(u, target, alone, np.zeros_like(alone))
    determinant = suu * s - su * su
    with np.errstate(divide="ignore", invalid="ignore"):
        A, E = (suy * s - su * sy) / determinant, (suu * sy - su * suy) / determinant
    inside = (determinant > 0) & (A >= 0) & (E >= 0)
    level = np.broadcast_to(np.maximum(sy / s, 0), alone.shape)  # A = 0
    zero = np.zeros_like(alone)
    flat = _residual(u, target, zero, level) < _residual(u, target, alone, zero)
    A = np.where(inside, A, np.where(flat, zero, alone))
    E = np.where(inside, E, np.where(flat, level, zero))
    return A, E, _residual(u, target, A, E)


def _residual(u: Floats, target: Floats, A: Floats, E: Floats) -> Floats:
    return ((A[..., None] * u + E[..., None] - target) ** 2).sum(-1)


def crossings(first: PowerLaw, second: PowerLaw, low: float, high: float) -> list[float]:
    """Where two curves meet between `low` and `high`, increasing; at most two, since their difference has one turning point."""

    def difference(x: float) -> float:
        return float(first(x) - second(x))

    places = np.geomspace(low, high, 400)
    values = first(places) - second(places)
    found = [float(x) for x, value in zip(places, values, strict=True) if value == 0]
    for (a, da), (b, db) in pairwise(zip(places.tolist(), values.tolist(), strict=True)):
        if da * db < 0:
            found.append(float(brentq(difference, a, b, xtol=1e-13, rtol=1e-14)))  # pyright: ignore[reportArgumentType]
    return sorted(found) if (values != 0).any() else []
