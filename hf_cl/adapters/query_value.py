"""What tuners with LoRA on queries and values of a vision tower share: where it goes."""

from __future__ import annotations

from typing import Any

from hf_cl.adapters.tuner import HeadedTuner

_VISION_QUERY_VALUE = r"^(?!.*\btext_model\b).*\blayers\.({blocks})\.self_attn\.[qv]_proj$"


class QueryValueTuner(HeadedTuner):
    """Targets `q_proj` and `v_proj` of ViT, DeiT, Dinov2, CLIP and SigLIP where the config names no modules; of two towers, the vision
    tower's."""

    target_module_mapping: dict[str, list[str]] = {
        kind: ["q_proj", "v_proj"] for kind in ("vit", "deit", "dinov2", "clip_vision_model", "siglip_vision_model")
    }

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None and model_config["model_type"] in ("clip", "siglip"):
            # a regex, since suffixes would hit both towers; peft ignores layers_to_transform beside one, so it names the blocks
            blocks = peft_config.layers_to_transform
            numbers = r"\d+" if blocks is None else "|".join(map(str, blocks))
            peft_config.target_modules, peft_config.layers_to_transform = _VISION_QUERY_VALUE.format(blocks=numbers), None
        return super()._prepare_adapter_config(peft_config, model_config)
