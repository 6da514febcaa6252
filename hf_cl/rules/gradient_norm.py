"""Penalty on the norm of the gradient."""

from __future__ import annotations

from typing import Any

from hf_cl.rules.perturbed import PerturbedRule


class GradientNorm(PerturbedRule):
    """`g_f = (1 - a) g + a g'`, a = mu / rho: the gradient of `L + mu |grad L|` to first order in rho.

    Zhao, Zhang, Hu: "Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning", ICML 2022. a > 1 is allowed.

    Args:
        rho: radius of the perturbation, in parameter units.
        mu: weight of the penalty.

    Raises ValueError for rho <= 0 or mu < 0.
    """

    def __init__(self, rho: float, mu: float) -> None:
        if not mu >= 0:
            raise ValueError(f"GradientNorm: mu must not be negative, got {mu}.")
        super().__init__(rho, mu / rho if rho > 0 else 0.0)
        self.mu = mu

    def record(self) -> dict[str, Any]:
        return {"rule": "gradient_norm", "mu": self.mu, **self.settings()}
