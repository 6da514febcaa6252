"""The tuner of adapters that change weights densely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from hf_cl.adapters.weight_targets import WeightTargets


class WeightModel(WeightTargets):
    """Puts a layer, most often a `WeightLayer`, around every target. Such adapters merge; what several give together says the layer."""

    tuner_layer_cls: Any

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        there: Any = target
        if isinstance(there, self.tuner_layer_cls):
            there.update_layer(adapter_name, peft_config)
            return
        self.check_target(peft_config, target, current_key)
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # what trains is float32 on every base; half precision, which stalls in training, only where the user asks peft for it
        if not autocast_adapter_dtype:
            for _, layer in self.weight_layers(adapter_name):
                layer.cast(adapter_name, layer.original.weight.dtype)
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    def weight_layers(self, adapter_name: str | None = None) -> Iterator[tuple[str, Any]]:
        """(module name, layer) of every module that the adapter changes; the active adapters where none is named."""
        names = self.active_adapters if adapter_name is None else [adapter_name]
        layers: dict[str, Any] = dict(self.model.named_modules())
        for name, module in layers.items():
            if isinstance(module, self.tuner_layer_cls) and any(module.has(one) for one in names):
                yield name, module
