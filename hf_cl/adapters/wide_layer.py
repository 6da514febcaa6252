"""A tuner layer whose tensors stay in the dtype that they were made in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hf_cl._peft import TunerLayer, check_adapters_to_merge


class WideLayer(TunerLayer):
    """Base of the layers that train in float32 on every base: their tensors follow the wrapped module's device, not its dtype."""

    @property
    def original(self) -> Any:
        """The wrapped module."""
        return self.get_base_layer()

    def has(self, adapter_name: str) -> bool:
        """Whether the adapter has tensors here."""
        return any(adapter_name in getattr(self, name) for name in self.adapter_layer_names)

    def in_force(self) -> list[str]:
        """Adapters that the forward pass has to apply: none while they are merged or disabled."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return []
        return [] if self.merged else [name for name in self.active_adapters if self.has(name)]

    def to_merge(self, adapter_names: list[str] | None) -> list[str]:
        """Of the named adapters, or of the active ones, those that are here and not merged yet."""
        return [name for name in check_adapters_to_merge(self, adapter_names) if self.has(name)]

    def cast(self, adapter_name: str, dtype: torch.dtype) -> None:
        """The adapter's parameters in another dtype."""
        for name in self.adapter_layer_names:
            held = dict(getattr(self, name).items())
            if adapter_name in held:
                held[adapter_name].data = held[adapter_name].data.to(dtype)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # peft's own also casts to the base's dtype, which would round the tensors on a half-precision base
        device = self.original.weight.device if device is None else device
        for name in (*self.adapter_layer_names, *self.other_param_names):
            part = getattr(self, name)
            held = dict(part.items())
            if isinstance(held.get(adapter_name), Tensor) and held[adapter_name].device.type != "meta":
                part[adapter_name] = held[adapter_name].to(device)


def check_finite(adapter_name: str, merged: Iterable[Tensor]) -> None:
    """Raise ValueError, in peft's words, where an entry of the tensors is not finite."""
    if not all(bool(tensor.isfinite().all()) for tensor in merged):
        raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken")
