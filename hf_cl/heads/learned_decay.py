"""Weight decays of a logistic regression, one per group of columns, learned from held-out images.

Bilevel learning by MAID, the method of adaptive inexact descent: Salehi, Mukherjee, Roberts and Ehrhardt, "An adaptively inexact
first-order method for bilevel optimization with application to hyperparameter learning" (arXiv 2308.10098). The lower level, the fit
under given decays, is solved only as exactly as a step of the upper level, the loss of what is held out, needs.

Two things are ours: the step that is tried first is Barzilai and Borwein's, and what the fits may be off by is their certificate, so no
step is tried that could not be told from it.

Shapes: G groups, P rows of a solution, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cl.heads.logistic_fit import CrossEntropy, Fit, Objective, solve

logger = logging.getLogger(__name__)

LEAST, MOST = -7.0, 4.0
"""Of theta: decays of 0.0009 to 55. Below, fits take long and change little."""
GRID = tuple(10 ** (-3 + k / 3) for k in range(13))
"""Decays that "grid" tries, 0.001 to 10."""
ETA, SHRINK, TRIES = 0.1, 0.5, 10
"""Of the line search: which part of the promised decrease must come, by what a step shrinks, how often."""
STEPS, ENOUGH, FARTHEST = 40, 1e-3, 2.0
"""At most so many steps; a promised decrease that is too small to go on, relative to the loss; how far theta moves in one step."""


@dataclass(frozen=True)
class Fold:
    """What is fitted, and what judges the fit."""

    train: Objective
    judge: CrossEntropy


@dataclass(frozen=True)
class Learned:
    """Decays and what was found under them."""

    theta: Tensor  # [G]
    loss: float
    """Of what is held out, the mean over folds."""
    fits: tuple[Fit, ...]
    """Of the folds."""
    passes: int
    """Passes over training rows: gradients and products with the Hessian."""
    steps: int


def conjugate_gradient(times: Callable[[Tensor], Tensor], right: Tensor, residual: float, scale: Tensor, most: int = 500) -> Tensor:
    """x with |A x - right| <= residual |right|, from x = 0; `times` multiplies by A, which is positive semidefinite, and has a diagonal of
    about `scale` squared."""
    x, r = torch.zeros_like(right), right.clone()
    enough = residual * float(right.norm())
    p, rz = torch.zeros_like(right), 1.0
    for _ in range(most):
        if float(r.norm()) <= enough:
            break
        z = r / scale.square()
        rz, before = float((r * z).sum()), rz
        p = z + (rz / before) * p
        ap = times(p)
        step = rz / float((p * ap).sum())
        x += step * p
        r -= step * ap
    return x


def hypergradient(fold: Fold, v: Tensor, theta: Tensor, residual: float) -> tuple[Tensor, float]:
    """[G] the derivative of the judge's loss at the fit `v` with respect to theta, and the norm of that loss's own gradient.

    By the implicit function theorem: -exp(theta_g) <V_g, q_g>, where q solves H q = grad F(V) to the given relative residual.
    """
    upper = fold.judge.loss_and_gradient(v)[1]  # [P, C]
    decays, hessian = fold.train.decays(theta), fold.train.loss.curvature(v)
    q = conjugate_gradient(lambda d: hessian.times(d) + decays * d, upper, residual, fold.train.scale(theta))
    width = len(fold.train.groups)
    along = (v[:width] * q[:width]).sum(1)  # [D]
    return -theta.exp() * torch.zeros_like(theta).index_add_(0, fold.train.groups, along), float(upper.norm())


def learn(folds: Sequence[Fold], theta: Tensor, starts: Sequence[Tensor], *, eps: float = 0.3, delta: float = 0.1) -> Learned:
    """Descend from `theta` [G]; `starts` are points [P, C] for the folds' fits.

    Args:
        eps: how far from its optimum a fit may be at first.
        delta: relative residual of the systems, at first.
    """
    lipschitz = max(fold.judge.lipschitz() for fold in folds)
    fits = tuple(solve(fold.train, theta, start, eps) for fold, start in zip(folds, starts, strict=True))
    size, before, steps, loss = None, None, 0, _loss(folds, fits)
    while steps < STEPS:
        steps += 1
        fits = _refined(folds, fits, theta, eps)
        loss = _loss(folds, fits)
        slope, upper = _slope(folds, fits, theta, delta)
        square = float(slope.square().sum())
        size = _first_size(size, slope, theta, before)
        if size * square <= ENOUGH * loss:
            break
        taken, error = None, _error(fits, upper, lipschitz)
        for _ in range(TRIES):
            if 2 * error > size * square:  # no decrease could be told from what the fits may be off by
                break
            there = (theta - size * slope).clamp(LEAST, MOST)
            tried = tuple(solve(fold.train, there, fit.v, eps) for fold, fit in zip(folds, fits, strict=True))
            if _loss(folds, tried) + _error(tried, upper, lipschitz) - loss + error <= -ETA * size * square:
                taken = there, tried
                break
            size *= SHRINK
        if taken is None:
            eps, delta = min(0.5 * eps, 0.25 * size * square / upper), 0.5 * delta
        else:
            before = theta, slope
            (theta, fits), eps, delta = taken, 1.05 * eps, min(1.05 * delta, 0.5)
    edge = [g for g, value in enumerate(theta.tolist()) if value in (LEAST, MOST)]
    if edge:
        logger.info("Logistic head: the decay of group %s is at the edge of what is searched", edge)
    return Learned(theta, loss, fits, sum(fold.train.loss.passes for fold in folds), steps)


def search(folds: Sequence[Fold], groups: int, starts: Sequence[Tensor], tolerance: float) -> Learned:
    """The decay of `GRID`, the same for all groups, whose fits lose least on what is held out."""
    best: Learned | None = None
    points = list(starts)
    for decay in reversed(GRID):
        theta = torch.full((groups,), decay, dtype=torch.float64).log()
        fits = tuple(solve(fold.train, theta, point, tolerance) for fold, point in zip(folds, points, strict=True))
        points, loss = [fit.v for fit in fits], _loss(folds, fits)
        if best is None or loss < best.loss:
            best = Learned(theta, loss, fits, 0, 0)
    assert best is not None
    return Learned(best.theta, best.loss, best.fits, sum(fold.train.loss.passes for fold in folds), len(GRID))


def _slope(folds: Sequence[Fold], fits: Sequence[Fit], theta: Tensor, delta: float) -> tuple[Tensor, float]:
    """[G] the mean hypergradient, without what would leave the range, and the largest norm of the judges' gradients."""
    found = [hypergradient(fold, fit.v, theta, delta) for fold, fit in zip(folds, fits, strict=True)]
    slope = torch.stack([one for one, _ in found]).mean(0)  # [G]
    blocked = ((theta <= LEAST) & (slope > 0)) | ((theta >= MOST) & (slope < 0))
    return slope.masked_fill(blocked, 0.0), max(norm for _, norm in found)


def _first_size(size: float | None, slope: Tensor, theta: Tensor, before: tuple[Tensor, Tensor] | None) -> float:
    """The step to try first: Barzilai and Borwein's where the slope has fallen along the last step, else somewhat more than the last."""
    length = float(slope.norm()) or 1.0
    if size is None or before is None:
        return 1 / length
    moved, turned = theta - before[0], slope - before[1]
    along = float((moved * turned).sum())
    wanted = float(moved.square().sum()) / along if along > 0 else 2 * size
    return min(wanted, 4 * size, FARTHEST / length)


def _refined(folds: Sequence[Fold], fits: Sequence[Fit], theta: Tensor, eps: float) -> tuple[Fit, ...]:
    return tuple(fit if fit.distance <= eps else solve(fold.train, theta, fit.v, eps) for fold, fit in zip(folds, fits, strict=True))


def _loss(folds: Sequence[Fold], fits: Sequence[Fit]) -> float:
    return sum(fold.judge.loss(fit.v) for fold, fit in zip(folds, fits, strict=True)) / len(folds)


def _error(fits: Sequence[Fit], upper: float, lipschitz: float) -> float:
    """By how much the loss of what is held out may be off, as the fits are."""
    return max(upper * fit.distance + 0.5 * lipschitz * fit.distance**2 for fit in fits)
