"""The tuner layer of COMPANDER.

Shapes: O, I rows and columns of a weight (a convolution's other axes are one), r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl._peft import BufferDict
from hf_cl.adapters.compander.config import CompanderConfig
from hf_cl.adapters.weight_change import Change, widened
from hf_cl.adapters.weight_layer import WeightLayer


def compand(v: Tensor, logs: Tensor) -> Tensor:
    """`a arctan(v / b)` with log a, log b in `logs` [2]: below a pi/2 in magnitude, of slope a / b at 0."""
    a, b = logs.exp()
    return a * (v / b).arctan()


@dataclass(frozen=True)
class BoundedDelta(Change):
    """W' = W + a arctan(s B A / b): no entry moves further than a pi/2."""

    scaling: float

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        a_rows, b_columns, logs = tensors  # [r, I], [O, r], [2]
        product = (b_columns @ a_rows * self.scaling).view_as(weight)
        return widened(weight) + compand(product, logs)


@dataclass(frozen=True)
class Reshaped(Change):
    """W' = W + (a arctan(W / b) - a0 arctan(W / b0)): two scalars move all entries, each by what its size gives."""

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        logs, start = tensors  # [2] each
        wide = widened(weight)
        return wide + (compand(wide, logs) - compand(wide, start))  # in this order: exactly the weight at the start


class CompanderLayer(WeightLayer):
    """A Linear or Conv2d with a companded change.

    `compander_start` [2] holds log a0 and log b0 of the unadapted weight, as the checkpoint has them: a base in another dtype must not
    change them. `compander_logs` [2] are the trained ones, where they train; `compander_A` [r, I] and `compander_B` [O, r] those of delta.
    """

    adapter_layer_names: tuple[str, ...] = ("compander_A", "compander_B", "compander_logs")
    other_param_names: tuple[str, ...] = ("compander_start", "modes", "_unmerged")

    def make_containers(self) -> None:
        self.compander_A, self.compander_B, self.compander_logs = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.compander_start: Any = BufferDict(persistent=True)
        self.modes: dict[str, Change] = {}

    def update_layer(self, adapter_name: str, config: CompanderConfig) -> None:
        """The tensors of one adapter; the identity unless `init_weights` is False.

        Raises ValueError where the weight is constant or has entries that are not finite: there is no standard deviation to go by.
        """
        weight = self.original.weight
        start = self._start(config).to(weight.device)
        self.compander_start[adapter_name] = start
        if config.learns:
            self.compander_logs[adapter_name] = nn.Parameter(start.clone())
        if config.mode == "delta":
            self.modes[adapter_name] = BoundedDelta(config.lora_alpha / config.r)
            a_rows, b_columns = torch.empty(config.r, weight[0].numel()), torch.zeros(weight.shape[0], config.r)
            nn.init.kaiming_uniform_(a_rows, a=math.sqrt(5))
            self.compander_A[adapter_name] = nn.Parameter(a_rows.to(weight.device))
            self.compander_B[adapter_name] = nn.Parameter(b_columns.to(weight.device))
        else:
            self.modes[adapter_name] = Reshaped()
        if not config.init_weights:
            nn.init.normal_(self.compander_B[adapter_name] if config.mode == "delta" else self.compander_logs[adapter_name], std=0.1)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def _start(self, config: CompanderConfig) -> Tensor:
        """[2] log a0, log b0."""
        weight = self.original.weight
        if weight.device.type == "meta":  # the file brings them
            return torch.zeros(2, device="meta")
        deviation = float(widened(weight).std(correction=0))
        if not 0 < deviation < math.inf:
            raise ValueError(f"COMPANDER: the weight of {self.module_name!r} has the standard deviation {deviation}, which bounds nothing.")
        a = config.bound * deviation * 2 / math.pi
        return torch.tensor([math.log(a), math.log(a / config.slope)])

    def change(self, adapter_name: str) -> tuple[Change, tuple[Tensor, ...]]:
        mode, start = self.modes[adapter_name], self.compander_start[adapter_name]
        logs: Any = self.compander_logs.get(adapter_name, start)
        if isinstance(mode, Reshaped):
            return mode, (logs, start)
        return mode, (self.compander_A[adapter_name], self.compander_B[adapter_name], logs)

    def limit(self, adapter_name: str) -> float:
        """a pi/2: what no entry of a delta exceeds. Waits for the device."""
        logs = self.compander_logs.get(adapter_name, self.compander_start[adapter_name])
        return float(logs[0].detach().exp()) * math.pi / 2
