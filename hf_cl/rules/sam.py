"""Sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.contracts import NamedParameters
from hf_cl.rules.passes import refuse_sharded, run_pass
from hf_cl.rules.perturbed import PerturbedRule


class Sam(PerturbedRule):
    """`g_f = g'`, the gradient at `w + rho g / |g|`: Foret et al., "Sharpness-Aware Minimization", ICLR 2021, eq. 2-3.

    Args:
        rho: radius of the perturbation, in parameter units.
        adaptive: scale the perturbation by the parameters' size: ASAM (Kwon et al., ICML 2021), under which rho is about ten times larger.
        every: of so many steps one is taken so, the first of them, and the others with the plain gradient: 2 halves what SAM costs beside
            it.

    Raises ValueError for rho <= 0, or every below 1.
    """

    def __init__(self, rho: float = 0.05, adaptive: bool = False, every: int = 1) -> None:
        super().__init__(rho, 1.0, adaptive=adaptive)
        if every < 1:
            raise ValueError(f"Sam: every must be at least 1, got {every}.")
        self.every, self._steps = every, 0

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        number, self._steps = self._steps, self._steps + 1
        if number % self.every == 0:
            return super().compute(closures, named_parameters, accelerator, model)
        refuse_sharded(accelerator, self)
        return run_pass(closures, accelerator, model)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps} if self.every > 1 else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state.get("steps", 0))

    def record(self) -> dict[str, Any]:
        """Empty for what no config has a field for: an adaptive radius, and plain steps between."""
        return {} if self.adaptive or self.every > 1 else {"rule": "sam", "rho": self.rho}
