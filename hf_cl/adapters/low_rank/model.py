"""The tuner of LOW_RANK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl._peft import bypassed
from hf_cl.adapters.block_outputs import BlockOutputs
from hf_cl.adapters.low_rank.layer import LowRankLayer
from hf_cl.adapters.low_rank_linear import MIN_OUT_FEATURES, LowRankLinear, is_low_rank
from hf_cl.adapters.weight_model import WeightModel


class LowRankModel(WeightModel):
    """Factors in the place of the Linears of any model, which stays whole beside them: the role "pretrained" is the original under the
    adapter's head, so that one model is teacher and student.

    On vision towers that hf_cl knows it hands out what embedding and blocks give, `block_0` to `block_K` [B, N, D], while a loss asks for
    it (`keep_blocks`), of the student in train mode and of the teacher.
    """

    prefix: str = "low_rank_"
    kind: str = "LOW_RANK"
    roles = ("pretrained",)
    takes = (nn.Linear,)
    takes_words = "nn.Linear"
    tuner_layer_cls: Any = LowRankLayer
    blocks: BlockOutputs

    def check_config(self, config: Any) -> None:
        super().check_config(config)
        if is_low_rank(self.model):
            raise ValueError("This base is compressed already; factors of factors would lose twice. Take the original.")

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().put_adapter(model, adapter_name, *args, **kwargs)
        if not any(True for _ in self.weight_layers(adapter_name)):
            raise ValueError(f"LOW_RANK leaves Linears of fewer than {MIN_OUT_FEATURES} outputs alone, and the targets are no others.")
        if "blocks" not in self.__dict__:  # peft injects the first adapter before an __init__ of ours could make it
            self.blocks = BlockOutputs(model)

    def _create_and_replace(self, peft_config: Any, adapter_name: str, target: nn.Module, *args: Any, **kwargs: Any) -> None:
        if isinstance(target, nn.Linear) and target.out_features < MIN_OUT_FEATURES:
            return
        super()._create_and_replace(peft_config, adapter_name, target, *args, **kwargs)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As peft's. Raises ValueError, with nothing switched, for adapters that hold factors of one module."""
        self._check_alone([adapter_name] if isinstance(adapter_name, str) else adapter_name)
        super().set_adapter(adapter_name, inference_mode)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """As peft's. Raises ValueError, with nothing merged, for adapters that hold factors of one module."""
        self._check_alone(adapter_names or self.active_adapters)
        super().merge_adapter(adapter_names, safe_merge=safe_merge)

    def _check_alone(self, adapter_names: list[str]) -> None:
        layers = {layer for name in adapter_names for _, layer in self.weight_layers(name)}
        for layer in layers:
            layer.check_alone(adapter_names)

    # Teacher and facts
    @property
    def extras(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Names of the outputs of embedding and blocks; none where hf_cl does not know the tower."""
        return self.blocks.names

    def take_extras(self) -> dict[str, Tensor]:
        return self.blocks.take()

    def keep_blocks(self, wanted: bool) -> None:
        """Whether forwards hand out the blocks' outputs from now on."""
        self.blocks.wanted = wanted

    @contextmanager
    def role(self, name: str, images: Tensor | None = None) -> Iterator[None]:
        """The original under the adapter's head, for a while."""
        self.blocks.teaches = True
        try:
            with bypassed(*(layer for _, layer in self.weight_layers())):  # and not the head
                yield
        finally:
            self.blocks.teaches = False

    def largest_errors(self) -> Tensor:
        """[P] of each of the P factored matrices max |up down - W|, differentiable in the factors."""
        errors = [layer.largest_error(name) for _, layer in self.weight_layers() for name in self.active_adapters if layer.has(name)]
        return torch.stack(errors)

    # What becomes of it
    def pairs(self, adapter_name: str | None = None) -> dict[str, LowRankLinear]:
        """Module name -> what stands in its place in the compressed base, new modules. Of the one active adapter where none is named."""
        name = self.active_adapters[0] if adapter_name is None else adapter_name
        return {module: layer.pair(name) for module, layer in self.weight_layers(name)}

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        self.blocks.remove()
        return model
