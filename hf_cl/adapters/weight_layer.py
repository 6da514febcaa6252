"""A Linear or Conv2d whose weight an adapter changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.weight_change import Change, ChangedLinear, ChangedWeight, widened
from hf_cl.adapters.wide_layer import WideLayer, check_finite


class WeightLayer(WideLayer):
    """Base of the layers that change a weight densely: compander, masks, sparse deltas.

    A subclass holds an adapter's tensors in containers named in `adapter_layer_names` and `other_param_names`, fills them in
    `update_layer`, and says in `change` what they do to the weight. The wrapped module is not called, so hooks on it do not run.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, module_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.module_name = module_name
        self._unmerged: dict[str, tuple[Tensor, Tensor | None]] = {}
        shape = self.original.weight.shape
        self.out_features, self.in_features = shape[0], shape[1]  # peft's own tests ask for these
        self.make_containers()
        self.update_layer(adapter_name, config)

    def make_containers(self) -> None:
        """The empty containers of the adapters' tensors."""

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Put the tensors of one adapter in."""
        raise NotImplementedError(f"{type(self).__name__} does not implement update_layer")

    def change(self, adapter_name: str) -> tuple[Change, tuple[Tensor, ...]]:
        """What the adapter does to the weight, and the tensors it takes for it."""
        raise NotImplementedError(f"{type(self).__name__} does not implement change")

    def applied(self) -> list[str]:
        """Adapters that the forward pass has to apply; raises for a base whose weights are elsewhere."""
        names = self.in_force()
        if names and not torch.compiler.is_compiling():
            self.refuse_offloaded(self.original.weight, *(tensor for name in names for tensor in self.change(name)[1]))
        return names

    def effective_weight(self, adapter_names: list[str]) -> Tensor:
        """The weight as the adapters make it, in the base's dtype, differentiable in what trains. Several add up."""
        weight = self.original.weight
        changed = [self._changed(name) for name in adapter_names]
        if len(changed) == 1:
            return changed[0].to(weight.dtype)
        start = widened(weight)
        return torch.stack([start, *(one - start for one in changed)]).sum(0).to(weight.dtype)

    def _changed(self, adapter_name: str) -> Tensor:
        change, tensors = self.change(adapter_name)
        return ChangedWeight.apply(self.original.weight, change, *tensors)  # pyright: ignore[reportReturnType]

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The change of the weight, a tensor of its shape and dtype."""
        return (self._changed(adapter_name).detach() - widened(self.original.weight)).to(self.original.weight.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # [B, I] -> [B, O]
        names, base = self.applied(), self.original
        if not names:
            return self.base_layer(x, *args, **kwargs)
        if isinstance(base, nn.Conv2d):
            return base._conv_forward(x, self.effective_weight(names), base.bias)
        if len(names) > 1:
            return nn.functional.linear(x, self.effective_weight(names), base.bias)
        change, tensors = self.change(names[0])
        return ChangedLinear.apply(x, base.weight, base.bias, change, *tensors)  # pyright: ignore[reportReturnType]

    def touched(self, adapter_name: str) -> Tensor | None:
        """Flat positions of all entries that the adapter can change; None: any."""
        return None

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the changed weight into the base, with the same arithmetic as the forward pass.

        With `safe_merge`, raises ValueError before anything is written where an entry would not be finite.
        """
        for adapter_name in self.to_merge(adapter_names):
            weight = self.original.weight
            merged = self.effective_weight([adapter_name])
            if safe_merge:
                check_finite(adapter_name, [merged])
            touched = self.touched(adapter_name)
            kept = weight.detach().clone() if touched is None else weight.detach().flatten()[touched]
            self._unmerged[adapter_name] = kept, touched
            weight.copy_(merged)
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back what the base had, to the bit: a subtraction would not. So a merged layer keeps the old entries until it is unloaded."""
        weight = self.original.weight
        while self.merged_adapters:
            kept, touched = self._unmerged.pop(self.merged_adapters.pop())
            whole = kept if touched is None else weight.flatten().index_copy(0, touched, kept).view_as(weight)
            weight.copy_(whole)
