"""The tuner layer of ASYNC_LORA.

Shapes: in, out widths of the wrapped Linear, r rank. Leading dimensions of an input are left as they are.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from hf_cl._peft import TunerLayer
from hf_cl.adapters.async_lora.config import AsyncLoraConfig

COPY = "async_lora_copy"


class AsyncLoraLayer(TunerLayer):
    """A module with LoRA, with per-adapter copies of its weights, or with both.

    `y = copy(x) + scale * B(A(dropout(x)))`; the base module stands in for the copy where the adapter has none in use. A copy *rests* until
    the config says `unfrozen`: it exists, so that an optimizer can hold it from the start, but the forward does not read it.

    `lora_on` and `copies_on` are the tuner's switches for the roles.
    """

    adapter_layer_names: tuple[str, ...] = ("async_lora_A", "async_lora_B", COPY)
    other_param_names: tuple[str, ...] = ("r", "lora_alpha", "scaling", "async_lora_dropout", "configs")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.async_lora_A = nn.ModuleDict()
        self.async_lora_B = nn.ModuleDict()
        self.async_lora_copy = nn.ModuleDict()
        self.async_lora_dropout = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.configs: dict[str, AsyncLoraConfig] = {}
        self.frozen_peft_weight_names = {}  # peft's class attribute is one dict shared by all layers
        self.lora_on = self.copies_on = True
        self._kept: dict[str, Tensor] = {}
        linear = isinstance(base_layer, nn.Linear)  # peft asks every tuner layer for these, and takes None as "has no such thing"
        self.in_features, self.out_features = (base_layer.in_features, base_layer.out_features) if linear else (None, None)
        self.register_load_state_dict_post_hook(_resting_copies_are_not_missing)

    @classmethod
    def at(cls, parent: nn.Module, child_name: str, adapter_name: str) -> AsyncLoraLayer:
        """The tuner layer at this place, put there if it is not yet."""
        target = getattr(parent, child_name)
        if isinstance(target, AsyncLoraLayer):
            return target
        layer = cls(target, adapter_name)
        setattr(parent, child_name, layer)
        return layer

    def __getattr__(self, name: str) -> Any:
        # models read attributes of what is wrapped: ViT asks `embeddings.patch_embeddings` for its dtype
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def add_lora(self, adapter_name: str, config: AsyncLoraConfig) -> None:
        """LoRA on the wrapped Linear: A [r, in] uniform as in `nn.Linear`, B [out, r] zero."""
        self.async_lora_A[adapter_name] = nn.Linear(self.in_features, config.r, bias=False)  # pyright: ignore[reportArgumentType]
        self.async_lora_B[adapter_name] = nn.Linear(config.r, self.out_features, bias=False)  # pyright: ignore[reportArgumentType]
        if config.init_weights:
            nn.init.zeros_(self.async_lora_B[adapter_name].weight)  # pyright: ignore[reportArgumentType]
        self.async_lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout)
        self.r[adapter_name], self.lora_alpha[adapter_name] = config.r, config.lora_alpha
        self.scaling[adapter_name] = config.lora_alpha / config.r
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def add_copy(self, adapter_name: str, config: AsyncLoraConfig) -> None:
        """A copy of the wrapped module's weights."""
        self.async_lora_copy[adapter_name] = _trainable_copy(self.base_layer)
        self.configs[adapter_name] = config
        if not config.unfrozen:
            self.frozen_peft_weight_names[adapter_name] = (COPY,)  # whenever peft switches adapters, it leaves these frozen

    @torch.no_grad()
    def start_copy(self, adapter_name: str) -> None:
        """Give the copy the base's values and let it train."""
        self.copy_base(adapter_name)
        self.async_lora_copy[adapter_name].requires_grad_(True)
        self.frozen_peft_weight_names.pop(adapter_name, None)

    @torch.no_grad()
    def copy_base(self, adapter_name: str) -> None:
        """Give the copy the base's values."""
        base = dict(self.base_layer.named_parameters())
        for name, parameter in self.async_lora_copy[adapter_name].named_parameters():
            parameter.copy_(base[name])

    def copy_in_use(self, adapter_names: list[str]) -> str | None:
        """Which of the adapters replaces this module's weights.

        Raises ValueError where several do: their copies cannot be added.
        """
        names = [name for name in adapter_names if name in self.configs and self.configs[name].unfrozen]
        if len(names) > 1:
            raise ValueError(f"Adapters {names} both hold their own copy of one module; only one of them can be active at a time.")
        return names[0] if names else None

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        self.copy_in_use([adapter_names] if isinstance(adapter_names, str) else adapter_names)
        super().set_adapter(adapter_names, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            if self.disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        copied = self.copy_in_use(self.active_adapters) if self.copies_on else None
        y = self.base_layer(x, *args, **kwargs) if copied is None else self._copied(copied, x, *args, **kwargs)
        if self.lora_on:
            for name in self.active_adapters:
                if name in self.async_lora_A:
                    y = y + self._lora(name, x).to(y.dtype)
        return y

    def _copied(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The copy in the base's place. It is float32 on a half-precision base."""
        module = self.async_lora_copy[name]
        inside, outside = next(module.parameters()).dtype, next(self.base_layer.parameters()).dtype
        if inside == outside or torch.is_autocast_enabled(x.device.type):
            return module(x, *args, **kwargs)
        return module(x.to(inside) if x.is_floating_point() else x, *args, **kwargs).to(outside)

    def _lora(self, name: str, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        down, up = self.async_lora_A[name], self.async_lora_B[name]
        x = x.to(down.weight.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return up(down(self.async_lora_dropout[name](x))) * self.scaling[name]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write copy and LoRA into the base weights. The originals are kept, so `unmerge` is exact.

        Raises ValueError where `safe_merge` finds a weight that is not finite; nothing is merged then.
        """
        names = check_adapters_to_merge(self, adapter_names)
        names = [name for name in names if name in self.async_lora_A or self.copy_in_use([name])]
        if not names:
            return
        merged = [*self.merged_adapters, *names]
        weights = self._merged_weights(merged)
        if safe_merge and not all(weight.isfinite().all() for weight in weights.values()):
            raise ValueError(f"The merged weights of adapter {', '.join(names)} are not finite; nothing was merged here.")
        for key, parameter in self.base_layer.named_parameters():
            if key in weights:
                self._kept.setdefault(key, parameter.data)
                parameter.data = weights[key]
        self.merged_adapters = merged

    @torch.no_grad()
    def _merged_weights(self, names: list[str]) -> dict[str, Tensor]:
        """Those base weights that the adapters change, in the base's dtype."""
        base = {key: self._kept.get(key, parameter).to(parameter.device) for key, parameter in self.base_layer.named_parameters()}
        copied = self.copy_in_use(names)
        new = {} if copied is None else {key: p.detach() for key, p in self.async_lora_copy[copied].named_parameters()}
        with_lora = [name for name in names if name in self.async_lora_A]
        if with_lora:
            weight = new.get("weight", base["weight"]).float()
            new["weight"] = weight + sum(self.delta_weight(name).float() for name in with_lora)
        return {key: weight.to(base[key].dtype, copy=True) for key, weight in new.items()}

    def delta_weight(self, name: str) -> Tensor:
        """[out, in] what LoRA adds to the weight."""
        return self.async_lora_B[name].weight @ self.async_lora_A[name].weight * self.scaling[name]  # pyright: ignore

    def unmerge(self) -> None:
        """Put the original tensors back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        for key, parameter in self.base_layer.named_parameters():
            if key in self._kept:
                parameter.data = self._kept[key].to(parameter.device)  # the model may have been moved since
        self._kept, self.merged_adapters = {}, []

    def __repr__(self) -> str:
        return "async_lora." + super().__repr__()


def _trainable_copy(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    token = twin._parameters.get("mask_token")
    if token is not None:
        # only masked image modelling reads it; as a parameter it would never get a gradient, which DDP takes for a mistake
        del twin._parameters["mask_token"]
        twin.register_buffer("mask_token", token.detach(), persistent=False)
    return twin


def _resting_copies_are_not_missing(layer: nn.Module, incompatible: Any) -> None:
    """Resting copies equal the base and are no part of an adapter file: loading one must not report them."""
    assert isinstance(layer, AsyncLoraLayer)
    resting = tuple(f".{COPY}.{name}." for name, config in layer.configs.items() if not config.unfrozen)
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not any(mark in key for mark in resting)]
