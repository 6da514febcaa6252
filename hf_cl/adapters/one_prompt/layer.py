"""The tuner layer of ONE_PROMPT.

Shapes: P prefix rows of one adapter in one layer, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from hf_cl.adapters.prefix import PrefixLayer, Rows


class OnePromptLayer(PrefixLayer):
    """Prefix rows that are parameters: `one_prompt_k.<adapter>` and `one_prompt_v.<adapter>`, each [P, D].

    `cat([one_prompt_k, one_prompt_v])` is the prompt of the official code. Rows of several active adapters are concatenated.
    """

    adapter_layer_names: tuple[str, ...] = ("one_prompt_k", "one_prompt_v")
    other_param_names: tuple[str, ...] = ("num_tokens",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, num_tokens: int, inference_mode: bool) -> None:
        super().__init__(base_layer, adapter_name)
        self.num_tokens: dict[str, int] = {}
        self.one_prompt_k = nn.ParameterDict()
        self.one_prompt_v = nn.ParameterDict()
        self.update_layer(adapter_name, num_tokens, inference_mode)

    def update_layer(self, adapter_name: str, num_tokens: int, inference_mode: bool) -> None:
        """Add the rows of one adapter, drawn from U[0, 1) as in the official code: neither scaled nor centred."""
        self.num_tokens[adapter_name] = num_tokens
        for rows in (self.one_prompt_k, self.one_prompt_v):
            rows[adapter_name] = nn.Parameter(torch.rand(num_tokens, self.width))  # [P, D]
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def rows(self) -> Rows | None:
        names = [name for name in self.active_adapters if name in self.one_prompt_k]
        if not names:
            return None
        if len(names) == 1:
            return self.one_prompt_k[names[0]], self.one_prompt_v[names[0]]  # [P, D] each
        return torch.cat([self.one_prompt_k[n] for n in names]), torch.cat([self.one_prompt_v[n] for n in names])  # [P, D] each
