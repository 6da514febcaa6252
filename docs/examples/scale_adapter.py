"""An adapter: a learned scale on every output of each MLP."""

from dataclasses import dataclass

import torch
from peft import PeftConfig, PeftType
from torch import nn

from hf_cl._peft import TunerLayer, register_type
from hf_cl.adapters.bases import SUPPORT, YES
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.tuner import HeadedTuner


@dataclass
class ScaleConfig(HeadedConfig, PeftConfig):
    """Its fields are what adapter_config.json holds."""

    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType["SCALE"]
        self.check_shared_fields()


class ScaleLayer(TunerLayer):
    """Wraps one Linear; parameter names begin with the tuner's prefix."""

    adapter_layer_names = ("scale_out",)

    def __init__(self, base_layer, adapter_name):
        super().__init__(base_layer, adapter_name)
        self.scale_out = nn.ParameterDict()

    def update_layer(self, adapter_name):
        self.scale_out[adapter_name] = nn.Parameter(torch.ones(self.base_layer.out_features))  # [D]
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def forward(self, x):
        out = self.base_layer(x)  # [B, N, D]
        for name in [] if self.disable_adapters else self.active_adapters:
            if name in self.scale_out:
                out = out * self.scale_out[name]
        return out


class ScaleModel(HeadedTuner):
    """Says where the layers go."""

    prefix = "scale_"
    tuner_layer_cls = ScaleLayer
    target_module_mapping = {"vit": ["fc2"]}

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key, **kwargs):
        layer = target if isinstance(target, ScaleLayer) else ScaleLayer(target, adapter_name)
        layer.update_layer(adapter_name)
        setattr(parent, target_name, layer)


SUPPORT["SCALE"] = {"vit": YES}
register_type("SCALE", ScaleConfig, ScaleModel)
