"""The tuner of ONE_PROMPT."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_cl.adapters.one_prompt.config import OnePromptConfig
from hf_cl.adapters.one_prompt.layer import OnePromptLayer
from hf_cl.adapters.prefix import PrefixLayer
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.hints import refuse

_VISION_SELF_ATTENTION = r"^(?!.*\btext_model\b).*\blayers\.({layers})\.self_attn$"
_OPEN_CLIP_VISION = r"^(?:.*\.)?visual\.transformer\.resblocks\.({layers})\.attn$"


class OnePromptModel(HeadedTuner):
    """OnePrompt on the vision tower of ViT, DeiT, Dinov2, CLIP, SigLIP and open_clip models.

    There is no identity at initialisation: even zero rows change the softmax. `merge` is refused where there are rows; `unload` gives the
    base back.
    """

    prefix: str = "one_prompt_"
    tuner_layer_cls = OnePromptLayer
    target_module_mapping: Any = {
        "vit": ["attention"],
        "deit": ["attention"],
        "dinov2": ["attention"],
        "clip": _VISION_SELF_ATTENTION,  # `self_attn` alone would hit both towers
        "siglip": _VISION_SELF_ATTENTION,
        "clip_vision_model": ["self_attn"],
        "siglip_vision_model": ["self_attn"],
        "open_clip": _OPEN_CLIP_VISION,
        "custom": _OPEN_CLIP_VISION,  # what peft calls a model without a config: an open_clip model as it is
    }

    def check_config(self, config: OnePromptConfig) -> None:
        refuse(config.misfits(self.model))

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            target = self.target_module_mapping[model_config["model_type"]]
            if isinstance(target, str):
                layers = r"\d+" if peft_config.layer_tokens is None else "|".join(map(str, sorted(peft_config.layer_tokens)))
                # peft ignores layers_to_transform where target_modules is a regex, so the regex names the layers
                target, peft_config.layers_to_transform = target.format(layers=layers), None
            peft_config.target_modules = set(target) if isinstance(target, list) else target  # pyright: ignore
        return peft_config

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride] (peft's own tuners do the same)
        self,
        peft_config: OnePromptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        num_tokens = peft_config.rows_for(current_key)
        if isinstance(target, OnePromptLayer):
            target.update_layer(adapter_name, num_tokens, peft_config.inference_mode)
            return
        if not PrefixLayer.accepts(target):
            raise ValueError(
                f"ONE_PROMPT targets attention modules with q_proj, k_proj and v_proj; {current_key!r} is a {type(target).__name__}."
            )
        layer = OnePromptLayer(target, adapter_name, num_tokens, peft_config.inference_mode)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # reached at unload only; peft's own copies `.weight`, which an attention block does not have
        setattr(parent, child_name, child.restore_base() if isinstance(child, OnePromptLayer) else new_module)

    def _check_merge_allowed(self) -> None:
        if not any(isinstance(module, OnePromptLayer) for module in self.model.modules()):
            return  # the head alone
        raise NotImplementedError("Prefix rows cannot be merged into the base weights; use `unload()` for the base model.")
