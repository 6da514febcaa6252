"""The tuner of ONE_PROMPT."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_cl.adapters.one_prompt.layer import OnePromptLayer
from hf_cl.adapters.prefix import PrefixLayer
from hf_cl.adapters.prefix_model import PrefixModel


class OnePromptModel(PrefixModel):
    """OnePrompt: rows that are parameters, the same for every image."""

    prefix: str = "one_prompt_"
    kind = "ONE_PROMPT"
    tuner_layer_cls: Any = OnePromptLayer

    def make_layer(self, target: nn.Module, adapter_name: str, config: Any, current_key: str) -> PrefixLayer:
        return OnePromptLayer(target, adapter_name, config.rows_for(current_key), config.inference_mode)

    def extend_layer(self, layer: Any, adapter_name: str, config: Any, current_key: str) -> None:
        layer.update_layer(adapter_name, config.rows_for(current_key), config.inference_mode)
