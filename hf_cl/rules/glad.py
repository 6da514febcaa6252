"""GLAD's regularised gradient."""

from __future__ import annotations

from typing import Any

from hf_cl.rules.perturbed import PerturbedRule


class Glad(PerturbedRule):
    """`g_f = (1 - lam) g + lam g'`, g' the SAM gradient at `w + rho g / |g|`.

    GLAD (Peng et al., "GLAD: Generalizable Tuning for Vision-Language Models", arXiv 2507.13089) steers the gradient towards SAM's; its
    Figure 1 draws g_f on the segment between the two. The paper's formula was not available: the midpoint, rho and the norm over all
    tensors are choices of this package. For small rho it is the gradient of `L + lam rho |grad L|`.

    Args:
        rho: radius of the perturbation, in parameter units.
        lam: weight of g': 0 is the plain gradient, 1 is SAM.
        adaptive, per_tensor: of `PerturbedRule`.

    Raises ValueError for rho <= 0 or lam outside [0, 1].
    """

    def __init__(self, rho: float = 0.05, lam: float = 0.5, *, adaptive: bool = False, per_tensor: bool = False) -> None:
        if not 0 <= lam <= 1:
            raise ValueError(f"Glad: lam must lie in [0, 1], got {lam}.")
        super().__init__(rho, lam, adaptive=adaptive, per_tensor=per_tensor)
        self.lam = lam

    def record(self) -> dict[str, Any]:
        return {"rule": "glad", "lam": self.lam, **self.settings()}
