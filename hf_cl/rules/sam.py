"""Sharpness-aware minimization."""

from __future__ import annotations

from typing import Any

from hf_cl.rules.perturbed import PerturbedRule


class Sam(PerturbedRule):
    """`g_f = g'`, the gradient at `w + rho g / |g|`: Foret et al., "Sharpness-Aware Minimization", ICLR 2021, eq. 2-3.

    Args:
        rho: radius of the perturbation, in parameter units.

    Raises ValueError for rho <= 0.
    """

    def __init__(self, rho: float = 0.05) -> None:
        super().__init__(rho, 1.0)

    def record(self) -> dict[str, Any]:
        return {"rule": "sam", **self.settings()}
