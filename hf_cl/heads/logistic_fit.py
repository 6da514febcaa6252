"""Multinomial logistic regression with one weight decay per group of columns, solved to a certified distance from its optimum.

    f(V; theta) = sum_i w_i CE(V^T z_i, y_i) + 0.5 sum_j exp(theta_group(j)) |V_j|^2,  sum_i w_i = 1

A bias is a last row of V without decay. Everything is float64 on the CPU.

Shapes: n rows, D columns, C classes, G groups, P = D or D + 1 rows of a solution [P, C].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What is fitted or judged."""

    x: Tensor  # [n, D]
    labels: Tensor  # [n]
    weights: Tensor  # [n], their sum is 1


class CrossEntropy:
    """The weighted cross-entropy of `rows` as a function of V [P, C]."""

    def __init__(self, rows: Rows, num_classes: int, *, bias: bool) -> None:
        ones = rows.x.new_ones(len(rows.x), 1)
        self.z = torch.cat([rows.x, ones], 1) if bias else rows.x  # [n, P]
        self.labels, self.weights, self.num_classes, self.bias = rows.labels, rows.weights, num_classes, bias
        self._row = torch.arange(len(rows.x))
        self.passes = 0
        """Passes over the rows that went into gradients and products with the Hessian."""

    def start(self) -> Tensor:
        """[P, C] of zeros."""
        return self.z.new_zeros(self.z.shape[1], self.num_classes)

    def loss(self, v: Tensor) -> float:
        """The value alone."""
        return self._loss(self.z @ v)

    def loss_and_gradient(self, v: Tensor) -> tuple[float, Tensor]:
        """The value, and its gradient [P, C]."""
        logits = self.z @ v  # [n, C]
        return self._loss(logits), self.z.T @ self.residual(logits)

    def residual(self, logits: Tensor) -> Tensor:
        """[n, C] weighted probabilities minus targets, of logits [n, C]: `z^T residual` is the gradient."""
        self.passes += 1
        residual = logits.softmax(1)
        residual[self._row, self.labels] -= 1
        return residual.mul_(self.weights[:, None])

    def curvature(self, v: Tensor) -> HessianAt:
        """The Hessian at `v`."""
        return HessianAt(self, (self.z @ v).softmax(1))

    def lipschitz(self) -> float:
        """A bound of the Hessian's largest eigenvalue, whatever V: half of that of z^T w z (Boehning, 1992)."""
        return 0.5 * float(torch.linalg.matrix_norm((self.z * self.weights[:, None]).T @ self.z, 2))

    def _loss(self, logits: Tensor) -> float:
        return float(self.weights @ (logits.logsumexp(1) - logits[self._row, self.labels]))


class HessianAt:
    """Products with the Hessian of a cross-entropy at a point, whose probabilities are given, [n, C]."""

    def __init__(self, of: CrossEntropy, probabilities: Tensor) -> None:
        self._of, self._p = of, probabilities

    def times(self, q: Tensor) -> Tensor:
        """[P, C] -> [P, C]."""
        self._of.passes += 1
        moved = self._of.z @ q  # [n, C]
        moved = self._p * (moved - (self._p * moved).sum(1, keepdim=True))
        return self._of.z.T @ moved.mul_(self._of.weights[:, None])

    def of_bias(self) -> Tensor:
        """[C, C] the block of the bias, made regular: adding a number to every bias changes nothing."""
        weighted = self._p * self._of.weights[:, None]
        return torch.diag(weighted.sum(0)) - self._p.T @ weighted + 1 / self._of.num_classes


@dataclass(frozen=True)
class Fit:
    """A point near the optimum."""

    v: Tensor  # [P, C]
    distance: float
    """At most so far is `v` from the optimum, by its rows with decay, whose bias is the best there is for them."""


class Objective:
    """f of a training set; `groups` [D] gives the group of each column."""

    def __init__(self, rows: Rows, groups: Tensor, num_classes: int, *, bias: bool) -> None:
        self.loss, self.groups = CrossEntropy(rows, num_classes, bias=bias), groups
        self._curvature = 0.25 * (self.loss.weights @ self.loss.z.square())[:, None]  # [P, 1]

    def scale(self, theta: Tensor) -> Tensor:
        """[P, 1] roots of a bound of the Hessian's diagonal: in coordinates V * scale the solvers have an easier problem."""
        return (self._curvature + self.decays(theta)).clamp_min(1e-12).sqrt()

    def decays(self, theta: Tensor) -> Tensor:
        """[P, 1] of theta [G]."""
        decays = theta.exp()[self.groups]
        return (torch.cat([decays, decays.new_zeros(1)]) if self.loss.bias else decays)[:, None]

    def value_and_gradient(self, v: Tensor, theta: Tensor) -> tuple[float, Tensor]:
        """f and its gradient [P, C]."""
        decays = self.decays(theta)
        loss, gradient = self.loss.loss_and_gradient(v)
        return loss + 0.5 * float((decays * v.square()).sum()), gradient + decays * v

    def certify(self, v: Tensor, theta: Tensor, gradient: Tensor | None = None) -> Fit:
        """`v` with the best bias for its other rows, and how far it can be from the optimum.

        With the bias eliminated f is strongly convex, with the smallest decay as its constant mu, so |V - V*| <= |gradient| / mu.
        """
        if self.loss.bias:
            v, gradient = self._with_best_bias(v), None
        if gradient is None:
            gradient = self.value_and_gradient(v, theta)[1]
        width = len(self.groups)
        return Fit(v, float(gradient[:width].norm()) / float(theta.min().exp()))

    def _with_best_bias(self, v: Tensor) -> Tensor:
        """Newton's method in the bias alone; whole steps, since it starts near the optimum, and halved ones where it does not."""
        v, loss = v.clone(), self.loss
        rest = loss.z[:, :-1] @ v[:-1]  # [n, C]
        for _ in range(50):
            logits = rest + v[-1]
            gradient = loss.residual(logits).sum(0)  # [C]
            if gradient.norm() <= 1e-14:
                break
            step = torch.linalg.solve(HessianAt(loss, logits.softmax(1)).of_bias(), gradient)
            before, size = loss._loss(logits), 1.0
            while size > 1e-3 and loss._loss(rest + v[-1] - size * step) > before + 1e-15:
                size /= 2
            v[-1] -= size * step
        return v


class _CloseEnoughError(Exception):
    """A point whose gradient is as small as was asked for."""

    def __init__(self, v: Tensor, gradient: Tensor) -> None:
        super().__init__()
        self.v, self.gradient = v, gradient


def solve(objective: Objective, theta: Tensor, start: Tensor, tolerance: float, *, most: int = 5000) -> Fit:
    """The optimum to within `tolerance` by L-BFGS (scipy), or as near as double precision and `most` gradients allow."""
    wanted = tolerance * float(theta.min().exp())
    fit = Fit(start, float("inf"))
    for _ in range(6):
        v, gradient = _descend(objective, theta, fit.v, wanted, most)
        fit = objective.certify(v, theta, gradient)
        if fit.distance <= tolerance:
            break
        wanted /= 4  # the best bias has moved the gradient
    return fit


def _descend(objective: Objective, theta: Tensor, start: Tensor, wanted: float, most: int) -> tuple[Tensor, Tensor | None]:
    """A point with a gradient of at most `wanted`, and that gradient; None beside the last point where it was not reached."""
    shape, scale = start.shape, objective.scale(theta)

    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.from_numpy(point).view(shape) / scale
        found, gradient = objective.value_and_gradient(v, theta)
        if float(gradient.norm()) <= wanted:
            raise _CloseEnoughError(v, gradient)
        return found, (gradient / scale).numpy().ravel()

    options: Any = {"maxcor": 20, "ftol": 0.0, "gtol": 0.0, "maxfun": most, "maxiter": most}
    try:
        found = minimize(value, (start * scale).numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    except _CloseEnoughError as close:
        return close.v, close.gradient
    return torch.from_numpy(found.x).view(shape) / scale, None
