"""The tuner of GLAD: peft's LoRA with hf_cl's head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer, LoraModel

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.glad.config import TEXT_HEAD, GladConfig
from hf_cl.adapters.glad.split_attention import pack_attention, split_attention
from hf_cl.adapters.text_head import settle_text_head
from hf_cl.adapters.tuner import HeadedTuner

_QKV = ["q_proj", "k_proj", "v_proj"]


class GladModel(HeadedTuner, LoraModel):
    """LoRA on q, k and v of every layer, in both towers of a CLIP-like model. Identity at the start; merges as LoRA does.

    The parameters are peft's own `lora_*`, so the registered prefix is `lora_`. Parametrization by base: transformers models and open_clip
    have separate A and B for q, k and v (open_clip's packed attention is split at injection and packed again by `unload` and
    `merge_and_unload`); timm's fused `qkv` layer has one A for the three.
    """

    prefix: str = "lora_"
    target_module_mapping: dict[str, list[str]] = {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip", "siglip", "clip_vision_model", "siglip_vision_model", OPEN_CLIP, "custom"), _QKV),
        "timm_wrapper": ["attn.qkv"],
    }

    can_be_emptied = True

    @torch.no_grad()
    def empty(self) -> None:
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                for name in module.active_adapters:
                    if name in module.lora_B:
                        module.lora_B[name].weight.zero_()  # pyright: ignore[reportCallIssue]

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with LoraModel._enable_peft_forward_hooks(self, *args, **kwargs):  # LoRA's layers do run mixed batches
            yield

    def check_config(self, config: GladConfig) -> None:
        for rank in (config.r, *(config.rank_pattern or {}).values()):
            self.check_rank(rank)
        settle_text_head(config, self.model, TEXT_HEAD)
        if family_of(self.model) == OPEN_CLIP:
            split_attention(self.model)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        pack_attention(self.model)
        return model
