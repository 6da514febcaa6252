"""The tuner layer of LOW_RANK.

Shapes: B samples (any number of leading dimensions), I inputs, O outputs of a Linear, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl.adapters.low_rank.config import LowRankConfig
from hf_cl.adapters.low_rank_linear import LowRankLinear, checked_rank, factors
from hf_cl.adapters.weight_change import Change, widened
from hf_cl.adapters.weight_layer import WeightLayer


@dataclass(frozen=True)
class Product(Change):
    """W' = up down: the weight itself takes no part."""

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        down, up = tensors  # [r, I], [O, r]
        return widened(up) @ widened(down)


class LowRankLayer(WeightLayer):
    """A Linear with `low_rank_down` [r, I], `low_rank_up` [O, r] and `low_rank_bias` [O], a copy of its own, in its place.

    Factors replace a weight and do not add up, so of several adapters that hold some one is active here.
    """

    adapter_layer_names: tuple[str, ...] = ("low_rank_down", "low_rank_up", "low_rank_bias")
    other_param_names: tuple[str, ...] = ("_unmerged", "_unmerged_bias")

    def make_containers(self) -> None:
        self.low_rank_down, self.low_rank_up, self.low_rank_bias = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self._unmerged_bias: dict[str, Tensor] = {}

    def update_layer(self, adapter_name: str, config: LowRankConfig) -> None:
        """The factors of one adapter, and a copy of the bias.

        Raises ValueError for a ratio that leaves the matrix no rank.
        """
        weight, bias = self.original.weight, self.original.bias
        rank = checked_rank(self.module_name, self.in_features, self.out_features, config.ratio)
        wide = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        if weight.device.type == "meta":  # the file brings them
            down, up = torch.empty(rank, self.in_features, **wide), torch.empty(self.out_features, rank, **wide)
        elif config.init_weights:
            down, up = factors(weight, rank)
        else:
            pair = LowRankLinear(self.in_features, self.out_features, rank, bias=False, **wide)
            down, up = pair.down.weight.detach(), pair.up.weight.detach()
        self.low_rank_down[adapter_name], self.low_rank_up[adapter_name] = nn.Parameter(down), nn.Parameter(up)
        if bias is not None:
            self.low_rank_bias[adapter_name] = nn.Parameter(bias.detach().to(wide["dtype"], copy=True))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def change(self, adapter_name: str) -> tuple[Change, tuple[Tensor, ...]]:
        return Product(), (self.low_rank_down[adapter_name], self.low_rank_up[adapter_name])

    def check_alone(self, adapter_names: Sequence[str]) -> None:
        """Raise ValueError where several of the adapters hold factors here."""
        held = [name for name in dict.fromkeys(adapter_names) if self.has(name)]
        if len(held) > 1:
            raise ValueError(f"Adapters {held} both hold factors of {self.module_name!r}; only one of them can be active at a time.")

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        self.check_alone([adapter_names] if isinstance(adapter_names, str) else adapter_names)
        super().set_adapter(adapter_names, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # [B, I] -> [B, O]
        names = self.applied()
        if not names:
            return self.base_layer(x, *args, **kwargs)
        down, up = self.low_rank_down[names[0]], self.low_rank_up[names[0]]
        bias: Any = self.low_rank_bias.get(names[0])
        if torch.is_autocast_enabled(x.device.type):
            return F.linear(F.linear(x, down), up, bias)
        return F.linear(F.linear(x.to(down.dtype), down), up, bias).to(x.dtype)  # float32 on a half-precision base too

    def largest_error(self, adapter_name: str) -> Tensor:
        """max |up down - W| over the entries, without dimensions; its gradient reaches one row of `up` and one column of `down`.

        The product is made without a graph, to find the entry, so that the backward pass keeps no matrix. Nothing waits for the device.
        """
        down, up, weight = self.low_rank_down[adapter_name], self.low_rank_up[adapter_name], widened(self.original.weight)
        with torch.no_grad():
            place = (up @ down - weight).abs().argmax().view(1)  # [1]
        row, column = place // self.in_features, place % self.in_features
        product = (up.index_select(0, row) @ down.index_select(1, column)).squeeze()
        return (product - weight.flatten().index_select(0, place).squeeze()).abs()

    def pair(self, adapter_name: str) -> LowRankLinear:
        """The factors as a module of their own, in the base's dtype."""
        weight, bias = self.original.weight, self.low_rank_bias
        rank, has_bias = self.low_rank_down[adapter_name].shape[0], adapter_name in bias
        made = LowRankLinear(self.in_features, self.out_features, rank, has_bias, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            made.down.weight.copy_(self.low_rank_down[adapter_name])
            made.up.weight.copy_(self.low_rank_up[adapter_name])
            if has_bias:
                made.up.bias.copy_(bias[adapter_name])
        return made

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write product and bias into the base: a weight of full size that has the factors' rank."""
        self.check_alone([*self.merged_adapters, *(adapter_names or self.active_adapters)])
        before = len(self.merged_adapters)
        super().merge(safe_merge, adapter_names)
        for name in self.merged_adapters[before:]:
            if name in self.low_rank_bias:
                self._unmerged_bias[name] = self.original.bias.detach().clone()
                self.original.bias.copy_(self.low_rank_bias[name])

    @torch.no_grad()
    def unmerge(self) -> None:
        for name in reversed(self.merged_adapters):
            if name in self._unmerged_bias:
                self.original.bias.copy_(self._unmerged_bias.pop(name))
        super().unmerge()
