"""Block coordinate descent for the logistic regression: one class's column of V at a time.

Nutini, Laradji and Schmidt, "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, Active-Set
Complexity, and Superlinear Convergence" (JMLR 2022, arXiv 1712.08859). The Hessian of every block is bounded by the same matrix
M = 0.25 z^T w z + diag(decay) (Boehning, 1992), so one Cholesky factor serves all updates, and 0.5 g^T M^-1 g is a decrease that an update
is sure to bring: the greedy rule takes the block where that is largest.

Shapes: n rows, P rows of a solution, C classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from hf_cl.heads.logistic_fit import Fit, Objective

Rule = Literal["greedy", "cyclic"]
SETTLED = 3
"""Rounds over all blocks after which zeros that have not moved count as found."""


class Blocks:
    """V [P, C] and what updating one of its columns takes.

    Args:
        objective, theta: of `logistic_fit`.
        start: V [P, C].
        l1: weight of sum |V|, without the bias.
    """

    def __init__(self, objective: Objective, theta: Tensor, start: Tensor, *, l1: float = 0.0) -> None:
        z, weights = objective.loss.z, objective.loss.weights
        self.objective, self.theta, self.v = objective, theta, start.clone()
        self.decays = objective.decays(theta)  # [P, 1]
        self.bound = 0.25 * (z * weights[:, None]).T @ z + torch.diag(self.decays[:, 0])  # [P, P]
        self.lower = torch.linalg.cholesky(self.bound)
        self.l1 = torch.full_like(self.decays, l1)  # [P, 1]
        if objective.loss.bias:
            self.l1[-1] = 0.0
        self.logits = z @ self.v  # [n, C]
        self._again()

    def _again(self) -> None:
        """The gradient of the smooth part, [P, C]."""
        self.gradient = self.objective.loss.z.T @ self.objective.loss.residual(self.logits) + self.decays * self.v

    def value(self) -> float:
        """The objective, l1 included."""
        smooth = self.objective.value_and_gradient(self.v, self.theta)[0]
        return smooth + float((self.l1 * self.v.abs()).sum())

    def slope(self) -> Tensor:
        """[P, C] the subgradient of least norm; the gradient without l1."""
        moving = self.gradient + self.l1 * self.v.sign()
        resting = self.gradient.sign() * (self.gradient.abs() - self.l1).clamp_min(0.0)
        return torch.where(self.v == 0, resting, moving)

    def scores(self) -> Tensor:
        """[C] the decrease that is sure; with l1 by M's diagonal alone, an order to go by."""
        if self.l1.any():
            return 0.5 * (self.slope().square() / self.bound.diagonal()[:, None]).sum(0)
        return 0.5 * (self.gradient * torch.cholesky_solve(self.gradient, self.lower)).sum(0)

    def update(self, label: int) -> None:
        """Move the column of one class to the minimum of its bound."""
        if self.l1.any():
            step = self._sparse_step(label)
        else:
            step = -torch.cholesky_solve(self.gradient[:, label : label + 1], self.lower)[:, 0]
        self.v[:, label] += step
        self.logits[:, label] += self.objective.loss.z @ step
        self._again()

    def _sparse_step(self, label: int, rounds: int = 100) -> Tensor:
        """[P] coordinate descent on g^T d + 0.5 d^T M d + l1 |v + d|: entries that belong at zero reach it exactly."""
        bound, l1, v = self.bound.numpy(), self.l1[:, 0].numpy(), self.v[:, label].numpy()
        slope, w = self.gradient[:, label].numpy().copy(), v.copy()
        for _ in range(rounds):
            farthest = 0.0
            for j in range(len(w)):
                point = w[j] - slope[j] / bound[j, j]
                new = np.sign(point) * max(abs(point) - l1[j] / bound[j, j], 0.0)
                if new != w[j]:
                    farthest = max(farthest, abs(new - w[j]))
                    slope += bound[j] * (new - w[j])
                    w[j] = new
            if farthest <= 1e-12:
                break
        return torch.from_numpy(w - v)

    def finish(self) -> None:
        """With l1: the minimum among points with these signs, where f is smooth; entries may still come to zero, exactly."""
        moving = ((self.v != 0) | (self.l1 == 0)).numpy()
        free = (self.l1.numpy() == 0) & moving
        signs = np.where(free, 0.0, np.sign(self.v.numpy()))[moving]
        bounds = [(None, None) if s == 0 else (0.0, None) if s > 0 else (None, 0.0) for s in signs]
        price = np.broadcast_to(self.l1.numpy(), moving.shape)[moving] * signs

        def value(point: np.ndarray) -> tuple[float, np.ndarray]:
            v = np.zeros(moving.shape)
            v[moving] = point
            found, gradient = self.objective.value_and_gradient(torch.from_numpy(v), self.theta)
            return found + float(price @ point), gradient.numpy()[moving] + price

        options = {"ftol": 0.0, "gtol": 1e-12, "maxfun": 20_000, "maxiter": 20_000, "maxcor": 30}
        found = minimize(value, self.v.numpy()[moving], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        self.v[torch.from_numpy(moving)] = torch.from_numpy(found.x)
        self.logits = self.objective.loss.z @ self.v
        self._again()

    def fit(self) -> Fit:
        """The point with its certificate. With l1, whose bias the updates have moved along, it is that of `slope`."""
        if not self.l1.any():
            return self.objective.certify(self.v, self.theta)
        return Fit(self.v, float(self.slope().norm()) / float(self.theta.min().exp()))


def solve_blocks(
    objective: Objective, theta: Tensor, start: Tensor, tolerance: float, *, rule: Rule = "greedy", l1: float = 0.0, most: int = 100_000
) -> Fit:
    """The optimum to within `tolerance`, or as near as `most` updates come.

    With `l1` the zeros are found in finitely many updates; once they rest, what is left is smooth and solved as such.
    """
    blocks = Blocks(objective, theta, start, l1=l1)
    classes, mu = objective.loss.num_classes, float(theta.min().exp())
    zeros, rested = blocks.v == 0, 0
    for step in range(most):
        if step % classes == 0:
            if float(blocks.slope().norm()) <= tolerance * mu and (found := blocks.fit()).distance <= tolerance:
                return found
            if l1:
                rested = rested + 1 if torch.equal(zeros, blocks.v == 0) else 0
                zeros = blocks.v == 0
                if rested >= SETTLED:
                    blocks.finish()
                    zeros, rested = blocks.v == 0, 0
        label = step % classes if rule == "cyclic" else int(blocks.scores().argmax())
        blocks.update(label)
    return blocks.fit()
