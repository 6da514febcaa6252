"""A prior of features, learned as a denoiser: how probable a feature is, up to a constant.

Fang, Buchanan, Sulam, "What's in a Prior? Learned Proximal Networks for Inverse Problems", ICLR 2024 (arXiv 2310.14344): the gradient of a
convex network is the proximal operator of some prior, so a denoiser of this form tells which. The paper restores images; here the rows are
features, and their prior is one more score of what is new.

Shapes: B rows, k dimensions, h width of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 112
BETA = 10.0
"""Sharpness of the softplus."""
CONVEXITY = 0.1
"""The potential is convex by at least this much, so that its gradient can be inverted."""
NOISE = 0.5
"""Deviation of the noise that is taken away, in units of the rows' own."""
STAGES = ((None, 600), (4.0, 300), (3.0, 300), (2.5, 300))
"""Steps of the absolute error, then of proximal matching with narrower and narrower gammas."""
_BATCH, _RATE = 256, 2e-3
_NEWTON, _HALVINGS = 100, 20


@dataclass(frozen=True)
class ProximalNetwork:
    """`psi(y) = w2 softplus(W1 softplus(W0 y) + R0 y + b0) + R1 y + b1 + c/2 |y|^2`, convex where W1 and w2 are not negative."""

    W0: Tensor  # [h, k]
    W1: Tensor  # [h, h]
    W2: Tensor  # [1, h]
    R0: Tensor  # [h, k]
    R1: Tensor  # [1, k]
    b0: Tensor  # [h]
    b1: Tensor  # [1]

    @classmethod
    def drawn(cls, dimensions: int, width: int, generator: torch.Generator) -> Self:
        """A network to begin with."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator) / shape[-1] ** 0.5

        inner, outer = normal(width, width).abs() / width**0.5, normal(1, width).abs()
        bias = torch.zeros(width, dtype=torch.float64)
        return cls(normal(width, dimensions), inner, outer, normal(width, dimensions), normal(1, dimensions), bias, bias[:1].clone())

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def _layers(self, y: Tensor) -> tuple[Tensor, Tensor]:  # [B, k] -> [B, h], [B, h]
        first = y @ self.W0.T
        return first, F.softplus(first, BETA) @ self.W1.T + y @ self.R0.T + self.b0

    def potential(self, y: Tensor) -> Tensor:  # [B, k] -> [B]
        """psi."""
        _, second = self._layers(y)
        return (F.softplus(second, BETA) @ self.W2.T + y @ self.R1.T + self.b1)[:, 0] + CONVEXITY / 2 * y.square().sum(-1)

    def prox(self, y: Tensor) -> Tensor:  # [B, k] -> [B, k]
        """The gradient of psi: the denoised rows."""
        first, second = self._layers(y)
        inner = (BETA * second).sigmoid() * self.W2
        return ((BETA * first).sigmoid() * (inner @ self.W1)) @ self.W0 + inner @ self.R0 + self.R1 + CONVEXITY * y

    def jacobian(self, y: Tensor) -> Tensor:  # [B, k] -> [B, k, k]
        """Of `prox`: symmetric, with positive eigenvalues."""
        first, second = self._layers(y)
        s0, s1 = (BETA * first).sigmoid(), (BETA * second).sigmoid()
        slope = (self.W1 * s0[:, None, :]) @ self.W0 + self.R0  # [B, h, k] of the second layer's input
        below = BETA * s0 * (1 - s0) * ((s1 * self.W2) @ self.W1)  # [B, h]
        above = BETA * s1 * (1 - s1) * self.W2  # [B, h]
        identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        return (self.W0.T * below[:, None, :]) @ self.W0 + (slope.mT * above[:, None, :]) @ slope + CONVEXITY * identity

    def log_prior(self, x: Tensor) -> Tensor:  # [B, k] -> [B]
        """Up to a constant: minus the logarithm of the prior is `<y, x> - |x|^2 / 2 - psi(y)` where `prox(y) = x`; this is its negative."""
        return -negative_log_prior(x, self.potential, self.prox, self.jacobian)


def negative_log_prior(
    x: Tensor, potential: Callable[[Tensor], Tensor], prox: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor]
) -> Tensor:  # [B, k] -> [B]
    """`<y, x> - |x|^2 / 2 - psi(y)` where `prox(y) = x`, of any strongly convex potential."""
    y = inverted(x, potential, prox, jacobian)
    return (y * x).sum(-1) - x.square().sum(-1) / 2 - potential(y)


def inverted(
    x: Tensor, potential: Callable[[Tensor], Tensor], prox: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor]
) -> Tensor:  # [B, k] -> [B, k]
    """y with `prox(y) = x`: the minimum of `psi(y) - <x, y>`, by Newton's steps, each row halving its own until it descends, by
    what floats can tell. Rows that have arrived, or that cannot descend, are left alone."""
    y, rest = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(_NEWTON):
        off = prox(y[rest]) - x[rest]  # [b, k]
        far = off.abs().amax(-1) > 1e-12
        rest, off = rest[far], off[far]
        if not len(rest):
            break
        own, wanted = y[rest], x[rest]
        step = torch.linalg.solve(jacobian(own), off)  # [b, k]
        before = potential(own) - (wanted * own).sum(-1)  # [b]
        most = before + 1e-13 * (1 + before.abs())
        size, worse = torch.ones_like(before), torch.ones_like(far[far])
        for _ in range(_HALVINGS):
            after = own - size[:, None] * step
            worse = potential(after) - (wanted * after).sum(-1) > most
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        rest, after = rest[~worse], (own - size[:, None] * step)[~worse]
        y[rest] = after
    return y


def proximal_matching(found: Tensor, target: Tensor, gamma: float) -> Tensor:  # [B, k], [B, k] -> []
    """`1 - exp(-|found - target|^2 / gamma^2)`, meaned: where gamma falls, the denoiser becomes the one of the most probable row."""
    return (1 - (-(found - target).square().sum(-1) / gamma**2).exp()).mean()


def learned(
    rows: Tensor,
    generator: torch.Generator,
    *,
    width: int = WIDTH,
    noise: float = NOISE,
    stages: Sequence[tuple[float | None, int]] = STAGES,
) -> ProximalNetwork:
    """The network whose prior is that of the rows [n, k], float64 on the CPU, of unit deviation or about it.

    The rate falls over all stages along a cosine: under a constant one the noise of the batches moves the denoiser by more than what the
    last stages are there for.
    """
    network = ProximalNetwork.drawn(rows.shape[1], width, generator)
    tensors = network.tensors()
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(tensors.values(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sum(steps for _, steps in stages))
    for gamma, steps in stages:
        for _ in range(steps):
            x = rows[torch.randint(len(rows), (_BATCH,), generator=generator)]  # [B, k]
            y = x + noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
            found = network.prox(y)
            loss = (found - x).abs().mean() if gamma is None else proximal_matching(found, x, gamma)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                network.W1.clamp_(min=0)
                network.W2.clamp_(min=0)
    return ProximalNetwork(**{name: tensor.detach().double() for name, tensor in tensors.items()})
