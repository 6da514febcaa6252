"""A tuner layer whose tensors stay in the dtype that they were made in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_cl._peft import TunerLayer


class WideLayer(TunerLayer):
    """Base of the layers that train in float32 on every base: their tensors follow the wrapped module's device, not its dtype."""

    @property
    def original(self) -> Any:
        """The wrapped module."""
        return self.get_base_layer()

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
