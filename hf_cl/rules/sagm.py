"""Sharpness-aware gradient matching."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_cl.rules.perturbed import PerturbedRule


class Sagm(PerturbedRule):
    """`g_f = (g + g') / 2` with g' at `w + (rho / |g| - alpha) g`.

    Wang et al., "Sharpness-Aware Gradient Matching for Domain Generalization", CVPR 2023, as its official code does it. With several
    processes the perturbation is one for all (theirs: one per process).

    Args:
        rho: radius of the perturbation, in parameter units.
        alpha: how far the perturbed point steps down the gradient; 0 is `Glad(rho, 0.5)`.

    Raises ValueError for rho <= 0 or alpha < 0.
    """

    def __init__(self, rho: float = 0.05, alpha: float = 1e-3) -> None:
        if not alpha >= 0:
            raise ValueError(f"Sagm: alpha must not be negative, got {alpha}.")
        super().__init__(rho, 0.5)
        self.alpha = alpha

    def factor(self, norm: Tensor) -> Tensor:
        return super().factor(norm) - self.alpha

    def record(self) -> dict[str, Any]:
        return {"rule": "sagm", "sagm_alpha": self.alpha, **self.settings()}
