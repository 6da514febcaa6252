"""An adapter that grows by session, for tests: a vector per session on the output of each MLP, all of them added in the forward.

A session without a new class brings a vector too. They are the rows of `growing_shift`, so a snapshot of an earlier session has fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftType
from torch import nn

from hf_cl._peft import TunerLayer, register_type
from hf_cl.adapters.bases import SUPPORT, YES
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.tuner import HeadedTuner


@dataclass
class GrowingConfig(HeadedConfig, PeftConfig):
    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType["GROWING"]
        self.check_shared_fields()


class GrowingLayer(TunerLayer):
    adapter_layer_names = ("growing_shift",)

    def __init__(self, base_layer, adapter_name):
        super().__init__(base_layer, adapter_name)
        self.growing_shift = nn.ParameterDict()

    def resize(self, adapter_name, sessions):
        rows = torch.zeros(sessions, self.base_layer.out_features)  # [T, D]
        if adapter_name in self.growing_shift:
            known = self.growing_shift[adapter_name].detach()
            rows = torch.cat([known, rows[len(known) :].to(known)])
        self.growing_shift[adapter_name] = nn.Parameter(rows)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def forward(self, x):
        out = self.base_layer(x)  # [B, N, D]
        for name in [] if self.disable_adapters else self.active_adapters:
            out = out + self.growing_shift[name].sum(0)
        return out


class GrowingModel(HeadedTuner):
    prefix = "growing_"
    tuner_layer_cls = GrowingLayer
    target_module_mapping = {"vit": ["fc2"]}

    def _create_and_replace(self, config: Any, adapter_name, target, target_name, parent, current_key, **kwargs):
        layer = target if isinstance(target, GrowingLayer) else GrowingLayer(target, adapter_name)
        layer.resize(adapter_name, len(config.classes_per_session))
        setattr(parent, target_name, layer)

    def grow(self, adapter_name, class_names):
        super().grow(adapter_name, class_names)
        config: Any = self.peft_config[adapter_name]
        for module in self.model.modules():
            if isinstance(module, GrowingLayer):
                module.resize(adapter_name, len(config.classes_per_session))


SUPPORT["GROWING"] = {"vit": YES}
register_type("GROWING", GrowingConfig, GrowingModel)
