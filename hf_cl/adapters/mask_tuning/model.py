"""The tuner of MASK_TUNING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.bits import pack
from hf_cl.adapters.mask_tuning.layer import BITS, SCORES, MaskTuningLayer
from hf_cl.adapters.weight_model import WeightModel

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj"]
TEXT_TOWER = r"(.*\.)?text_model\..*"
POOLING_HEAD = r"(.*\.)?vision_model\.head\..*"


class MaskTuningModel(WeightModel):
    """Weights of Linear and Conv2d modules, kept or set to zero. Starts as the identity, merges, and adds nothing at prediction.

    Of several active adapters, a weight is used where all of them use it.
    """

    prefix: str = "mask_tuning_"
    kind: str = "MASK_TUNING"
    tuner_layer_cls: Any = MaskTuningLayer
    target_module_mapping: dict[str, list[str]] = {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip", "clip_vision_model", "clip_text_model"), _ATTENTION),
        **dict.fromkeys(("siglip", "siglip_vision_model", "siglip_text_model"), _ATTENTION),
        "timm_wrapper": ["attn.qkv", "attn.proj"],
    }

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None and peft_config.exclude_modules is None and model_config["model_type"] in ("clip", "siglip"):
            peft_config.exclude_modules = f"{TEXT_TOWER}|{POOLING_HEAD}"
        return super()._prepare_adapter_config(peft_config, model_config)

    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        super().grow(adapter_name, class_names)
        if self.peft_config[adapter_name].sessions == "stack":  # pyright: ignore[reportAttributeAccessIssue]
            for _, layer in self.weight_layers(adapter_name):
                layer.stack(adapter_name)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], unwanted_adapter_names: list[str]
    ) -> dict[str, Tensor]:
        entries = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        for name, layer in _layers_of(model, adapter_name):
            scores = entries.pop(f"{name}.{SCORES}.{adapter_name}", None)
            if scores is not None:
                entries[f"{name}.{BITS}.{adapter_name}"] = pack(layer.mask(adapter_name, scores))
        return entries

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        state = dict(state_dict)
        for name, layer in _layers_of(model, adapter_name):
            if adapter_name not in layer.mask_tuning_scores:
                continue
            bare = name.removeprefix("base_model.model.")
            for place in (f"{bare}.{BITS}", f"base_model.model.{bare}.{BITS}"):
                if place in state:
                    state[place.replace(BITS, SCORES)] = layer.scores_of(adapter_name, state.pop(place))
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state)

    def scores(self) -> list[Tensor]:
        """Of every module, those that train."""
        return [p for _, layer in self.weight_layers() for p in layer.mask_tuning_scores.values() if p.requires_grad]

    @torch.no_grad()
    def masked_shares(self, adapter_name: str | None = None) -> dict[str, float]:
        """Module name -> share of its weights that are set to zero. Waits for the device once."""
        name = self.active_adapters[0] if adapter_name is None else adapter_name
        layers = dict(self.weight_layers(name))
        shares = torch.stack([(~layer.mask(name)).float().mean() for layer in layers.values()]).tolist()
        return dict(zip(layers, shares, strict=True))


def _layers_of(model: nn.Module, adapter_name: str) -> list[tuple[str, MaskTuningLayer]]:
    """(name, layer) of the layers of `model` that the adapter masks."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, MaskTuningLayer)]
    return [(name, layer) for name, layer in layers if layer.has(adapter_name)]
