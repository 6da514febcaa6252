"""The tuner of COMPANDER."""

from __future__ import annotations

from typing import Any

from hf_cl.adapters.compander.layer import CompanderLayer
from hf_cl.adapters.weight_model import WeightModel


class CompanderModel(WeightModel):
    """Bounded, nonlinear changes of the weights of Linear and Conv2d modules of any model. Starts as the identity, and merges.

    Changes of several adapters add up; a weighted sum of two is no compander, so there is none.
    """

    prefix: str = "compander_"
    kind: str = "COMPANDER"
    tuner_layer_cls: Any = CompanderLayer

    def check_config(self, config: Any) -> None:
        super().check_config(config)
        self.check_rank(config.r)

    def limits(self, adapter_name: str | None = None) -> dict[str, float]:
        """Module name -> a pi/2, which no entry of its change exceeds (mode delta). Takes the one active adapter where none is named."""
        name = self.active_adapters[0] if adapter_name is None else adapter_name
        return {module: layer.limit(name) for module, layer in self.weight_layers(name)}
