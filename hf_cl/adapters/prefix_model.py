"""What tuners with prefix rows share: the attention modules of each base family, and what cannot be done with rows."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from hf_cl.adapters.prefix import PrefixLayer
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.hints import refuse

_VISION_SELF_ATTENTION = r"^(?!.*\btext_model\b).*\blayers\.({layers})\.self_attn$"
_OPEN_CLIP_VISION = r"^(?:.*\.)?visual\.transformer\.resblocks\.({layers})\.attn$"


class PrefixModel(HeadedTuner):
    """Prefix rows in the vision tower of ViT, DeiT, Dinov2, CLIP, SigLIP and open_clip models.

    There is no identity at initialisation: even zero rows change the softmax. `merge` is refused where there are rows; `unload` gives the
    base back.
    """

    tuner_layer_cls: Any = PrefixLayer
    kind: ClassVar[str]
    """The peft type, for messages."""
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

    def check_config(self, config: Any) -> None:
        refuse(config.misfits(self.model))

    def make_layer(self, target: nn.Module, adapter_name: str, config: Any, current_key: str) -> PrefixLayer:
        """The tuner layer around the attention module that `current_key` names."""
        raise NotImplementedError(f"{type(self).__name__} does not implement make_layer")

    def extend_layer(self, layer: PrefixLayer, adapter_name: str, config: Any, current_key: str) -> None:
        """Add the rows of a further adapter to a layer."""
        raise NotImplementedError(f"{type(self).__name__} does not implement extend_layer")

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            target = self.target_module_mapping[model_config["model_type"]]
            if isinstance(target, str):
                numbers = peft_config.layers_with_rows
                layers = r"\d+" if numbers is None else "|".join(map(str, numbers))
                # peft ignores layers_to_transform where target_modules is a regex, so the regex names the layers
                target, peft_config.layers_to_transform = target.format(layers=layers), None
            peft_config.target_modules = set(target) if isinstance(target, list) else target
        return peft_config

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride] (peft's own tuners do the same)
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, PrefixLayer):
            self.extend_layer(target, adapter_name, peft_config, current_key)
            return
        if not PrefixLayer.accepts(target):
            raise ValueError(
                f"{self.kind} targets attention modules with q_proj, k_proj and v_proj; {current_key!r} is a {type(target).__name__}."
            )
        layer = self.make_layer(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # reached at unload only; peft's own copies `.weight`, which an attention block does not have
        setattr(parent, child_name, child.restore_base() if isinstance(child, PrefixLayer) else new_module)

    def _check_merge_allowed(self) -> None:
        if not any(isinstance(module, PrefixLayer) for module in self.model.modules()):
            return  # the head alone
        raise NotImplementedError("Prefix rows cannot be merged into the base weights; use `unload()` for the base model.")
