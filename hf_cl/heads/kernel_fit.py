"""Kernel ridge regression on one-hot targets, solved in its dual form.

Everything is float64 on the CPU where it is fitted. Shapes: n rows, C classes, D width, B batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["rbf", "laplace", "linear", "poly"]


def kernel_of(kind: Kernel, a: Tensor, b: Tensor, gamma: float) -> Tensor:
    """[B, n] of rows [B, D] and [n, D]: "rbf" exp(-gamma |x - y|^2), "laplace" exp(-gamma |x - y|_1), "linear" x.y, "poly" (x.y + 1)^3.

    Laplace is what the code of kernel continual learning (Derakhshani et al., ICML 2021) calls rbf, with a gamma of 0.25.
    """
    if kind == "laplace":
        return torch.exp(-gamma * torch.cdist(a, b, p=1))
    products = a @ b.T  # [B, n]
    if kind == "rbf":
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * products
        return torch.exp(-gamma * squares.clamp_min(0.0))
    return products if kind == "linear" else (products + 1) ** 3


def solve_dual(gram: Tensor, targets: Tensor, lam: float) -> Tensor:
    """[n, C] the weights of the rows: (K + lam I)^-1 Y of `gram` [n, n] and `targets` [n, C].

    Raises ValueError where the system is not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(gram + lam * torch.eye(len(gram), dtype=gram.dtype))
    if failed:
        raise ValueError(f"The kernel system of {len(gram)} rows is singular with lam {lam:g}: give the head a larger `lam`.")
    return torch.cholesky_solve(targets, lower)


def left_out_errors(gram: Tensor, targets: Tensor, penalties: Iterable[float]) -> list[float]:
    """Of each penalty the mean, over rows, of the squared residual that a row has when it is left out.

    In closed form: the row's weight over its entry of the diagonal of (K + lam I)^-1. One eigenvalue problem serves all.
    """
    values, vectors = torch.linalg.eigh(gram)  # [n], [n, n]
    turned, squares = vectors.T @ targets, vectors.square()
    errors = []
    for lam in penalties:
        inverse = 1 / (values.clamp_min(0.0) + lam)  # [n]
        residual = (vectors @ (turned * inverse[:, None])) / (squares @ inverse)[:, None]  # [n, C]
        errors.append(float(residual.square().sum(1).mean()))
    return errors
