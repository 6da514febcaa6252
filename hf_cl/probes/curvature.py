"""Estimates about a Hessian from its products with vectors.

Shapes: P parameters of all tensors together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Gradient = Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]]
"""Tensors -> the loss and its gradient, with a graph to differentiate again."""
Reduce = Callable[[Tensor], Tensor]
"""The sum over all processes, each of which has its share of the loss."""
Draw = Callable[[int, torch.device], Tensor]
"""(P, device) -> [P] of -1 and 1."""


@dataclass(frozen=True)
class Curvature:
    """Numbers about a loss at one point."""

    loss: float
    gradient_norm: float
    trace: float
    trace_error: float | None
    """Standard error of the mean; None for a single vector."""
    frobenius: float
    lambda_max: float
    converged: bool
    """Whether the power iteration came to rest before its products ran out."""
    along_gradient: float | None
    """`g^T H g / |g|^2`; None where the gradient is 0."""
    parameters: int


def curvature(
    gradient: Gradient, tensors: Sequence[Tensor], samples: int, iterations: int, tolerance: float, draw: Draw, reduce: Reduce = lambda t: t
) -> Curvature:
    """Trace and Frobenius norm by Hutchinson's estimator, the largest eigenvalue by power iteration.

    `trace = mean v^T H v` and `frobenius^2 = mean |H v|^2` over random signs v. Power iteration finds the eigenvalue of largest magnitude;
    where that is negative, a second one on H shifted by it finds the largest.

    Args:
        gradient: of the loss.
        tensors: where it is taken.
        samples: random vectors for the trace.
        iterations, tolerance: of the power iteration.
        draw: random signs.
        reduce: over processes; every one must draw the same signs.
    """
    product = HessianProduct(gradient, tensors, reduce)
    size, device = product.size, tensors[0].device
    vectors = [draw(size, device).to(tensors[0].dtype) for _ in range(samples)]
    products = [product(v) for v in vectors]
    forms = torch.stack([v @ hv for v, hv in zip(vectors, products, strict=True)])  # [K]
    norms = torch.stack([hv @ hv for hv in products])  # [K]
    start = draw(size, device).to(tensors[0].dtype)
    value, converged = power_iteration(product, start, iterations, tolerance)
    if value < 0:
        shift = value
        above, converged = power_iteration(lambda v: product(v) - shift * v, start, iterations, tolerance)
        value = above + shift
    g = product.flat_gradient
    square = float(g @ g)
    return Curvature(
        loss=product.loss,
        gradient_norm=square**0.5,
        trace=float(forms.mean()),
        trace_error=float(forms.std() / samples**0.5) if samples > 1 else None,
        frobenius=float(norms.mean().sqrt()),
        lambda_max=value,
        converged=converged,
        along_gradient=float(g @ product(g)) / square if square else None,
        parameters=size,
    )


class HessianProduct:
    """v [P] -> H v [P], by differentiating the gradient, whose graph is kept."""

    def __init__(self, gradient: Gradient, tensors: Sequence[Tensor], reduce: Reduce) -> None:
        self._tensors, self._reduce = list(tensors), reduce
        loss, self._gradients = gradient(self._tensors)
        self.loss = float(reduce(loss.detach()))
        self.size = sum(t.numel() for t in self._tensors)
        self.flat_gradient = reduce(torch.cat([g.detach().reshape(-1) for g in self._gradients]))  # [P]

    def __call__(self, vector: Tensor) -> Tensor:
        pieces = vector.split([t.numel() for t in self._tensors])
        with_graph = [(g, v.view_as(g)) for g, v in zip(self._gradients, pieces, strict=True) if g.requires_grad]
        if not with_graph:
            return self._reduce(torch.zeros_like(vector))
        outputs, weights = zip(*with_graph, strict=True)
        found = torch.autograd.grad(outputs, self._tensors, grad_outputs=weights, retain_graph=True, allow_unused=True)
        flat = [(torch.zeros_like(t) if h is None else h).reshape(-1) for h, t in zip(found, self._tensors, strict=True)]
        return self._reduce(torch.cat(flat))  # [P]


def power_iteration(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, tolerance: float) -> tuple[float, bool]:
    """The eigenvalue of largest magnitude as `v^T H v`, and whether its relative change fell below the tolerance."""
    v, value = start / start.norm(), 0.0
    for _ in range(iterations):
        hv = product(v)
        before, value = value, float(v @ hv)
        norm = hv.norm()
        if float(norm) == 0:
            return 0.0, True
        v = hv / norm
        if abs(value - before) < tolerance * abs(value):
            return value, True
    return value, False
