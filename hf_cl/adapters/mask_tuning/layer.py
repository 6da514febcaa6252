"""The tuner layer of MASK_TUNING."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl._peft import BufferDict
from hf_cl.adapters.bits import pack, packed_size, unpack
from hf_cl.adapters.mask_tuning.config import MaskTuningConfig
from hf_cl.adapters.weight_change import Change
from hf_cl.adapters.weight_layer import WeightLayer

SCORES, BITS, PAST = "mask_tuning_scores", "mask_tuning_bits", "mask_tuning_past"


@dataclass(frozen=True)
class Masked(Change):
    """W' = W where the score is above the threshold (and the mask of earlier sessions grants it), else 0.

    The comparison passes gradients on as if it were the identity: dL/dm = dL/dW' * W, for masked entries too, so that they can come back.
    """

    threshold: float

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        scores, *past = tensors
        mask = scores > self.threshold
        for bits in past:
            mask = mask & unpack(bits, weight.shape)
        return torch.where(mask, weight, 0.0)

    def gradients(self, g: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        scores, *past = tensors
        return (g.to(scores.dtype) * weight if scores.requires_grad else None, *(None for _ in past))


@dataclass(frozen=True)
class Loaded(Change):
    """The same of bits alone: an adapter that does not train has no scores."""

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        return torch.where(unpack(tensors[0], weight.shape), weight, 0.0)

    def gradients(self, g: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        return (None,)


class _Straight(torch.autograd.Function):
    """1 where the score is above the threshold, else 0, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g, None


class MaskTuningLayer(WeightLayer):
    """A Linear or Conv2d with some of its weights set to zero.

    While the adapter trains, `mask_tuning_scores` (the weight's shape, float32) are the truth, and under `sessions="stack"`
    `mask_tuning_past` are the bits of what earlier sessions left. A file holds `mask_tuning_bits` in their place, and an adapter that is
    loaded to predict has nothing but these. Checkpoints hold scores.
    """

    adapter_layer_names: tuple[str, ...] = (SCORES,)
    other_param_names: tuple[str, ...] = (BITS, PAST, "settings", "_unmerged")

    def make_containers(self) -> None:
        self.mask_tuning_scores = nn.ParameterDict()
        self.mask_tuning_bits: Any = BufferDict(persistent=True)
        self.mask_tuning_past: Any = BufferDict(persistent=False)
        self.settings: dict[str, MaskTuningConfig] = {}

    def update_layer(self, adapter_name: str, config: MaskTuningConfig) -> None:
        """Scores of one adapter, all above the threshold unless `init_weights` is False; for prediction, bits instead."""
        weight = self.original.weight
        self.settings[adapter_name] = config
        if config.inference_mode:
            self.mask_tuning_bits[adapter_name] = pack(torch.ones(weight.shape, dtype=torch.bool, device=weight.device))
        else:
            scores = torch.full(weight.shape, config.init_value, dtype=torch.float32, device=weight.device)
            if not config.init_weights:
                scores.uniform_(0, 2 * config.init_value)
            self._train_on(adapter_name, scores)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _train_on(self, adapter_name: str, scores: Tensor) -> None:
        self.mask_tuning_scores[adapter_name] = nn.Parameter(scores)
        if self.settings[adapter_name].sessions == "stack":
            self.mask_tuning_past[adapter_name] = pack(torch.ones_like(scores, dtype=torch.bool))

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """As peft's. An adapter that was loaded to predict and is now to train gets its scores."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            if not inference_mode and name in self.mask_tuning_bits:
                mask = unpack(self.mask_tuning_bits[name], self.original.weight.shape)
                del self.mask_tuning_bits[name]
                self._train_on(name, mask * self.settings[name].init_value)
        super().set_adapter(names, inference_mode=inference_mode)

    def has(self, adapter_name: str) -> bool:
        return adapter_name in self.settings

    def change(self, adapter_name: str) -> tuple[Change, tuple[Tensor, ...]]:
        if adapter_name in self.mask_tuning_bits:
            return Loaded(), (self.mask_tuning_bits[adapter_name],)
        past = (self.mask_tuning_past[adapter_name],) if adapter_name in self.mask_tuning_past else ()
        return Masked(self.settings[adapter_name].threshold), (self.mask_tuning_scores[adapter_name], *past)

    def effective_weight(self, adapter_names: list[str]) -> Tensor:
        """The weight as the adapters leave it; what one of several masks is masked."""
        if len(adapter_names) == 1:
            return super().effective_weight(adapter_names)
        weight = self.original.weight
        mask = torch.ones((), dtype=torch.float32, device=weight.device)
        for name in adapter_names:
            mask = mask * self._straight(name)
        return torch.where(mask.bool(), weight, weight * mask)

    def _straight(self, adapter_name: str) -> Tensor:
        change, tensors = self.change(adapter_name)
        if not isinstance(change, Masked):
            return self.mask(adapter_name).float()
        straight: Any = _Straight.apply(tensors[0], change.threshold)
        return straight if len(tensors) == 1 else straight * unpack(tensors[1], straight.shape)

    @torch.no_grad()
    def mask(self, adapter_name: str, scores: Tensor | None = None) -> Tensor:
        """Which weights are used, by the layer's own scores or by others: bool, of the weight's shape."""
        change, tensors = self.change(adapter_name)
        shape = self.original.weight.shape
        if not isinstance(change, Masked):
            return unpack(tensors[0], shape)
        used = (tensors[0] if scores is None else scores) > change.threshold
        return used if len(tensors) == 1 else used & unpack(tensors[1].to(used.device), shape)

    def scores_of(self, adapter_name: str, bits: Tensor) -> Tensor:
        """Scores that give the mask of a file's bits; under "stack" what the file masks is earlier sessions' business.

        Raises ValueError for bits of another number of weights.
        """
        config, shape = self.settings[adapter_name], self.original.weight.shape
        if bits.shape != (packed_size(shape.numel()),):
            raise ValueError(
                f"MASK_TUNING at {self.module_name}: {bits.numel()} bytes of bits for {shape.numel()} weights; the file is damaged, or "
                "made for another base."
            )
        if config.sessions == "stack":
            self.mask_tuning_past[adapter_name] = bits.to(self.original.weight.device)
            return torch.full(shape, config.init_value)
        return unpack(bits, shape) * config.init_value

    def touched(self, adapter_name: str) -> Tensor:
        return (~self.mask(adapter_name)).flatten().nonzero().squeeze(1)

    @torch.no_grad()
    def stack(self, adapter_name: str) -> None:
        """A session begins: what is masked stays so, and scores start anew."""
        self.mask_tuning_past[adapter_name] = pack(self.mask(adapter_name))
        self.mask_tuning_scores[adapter_name].fill_(self.settings[adapter_name].init_value)
