"""Which modules an adapter on the weights takes: what the types that read and write weights share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hf_cl.adapters.low_rank_linear import is_low_rank, ranks
from hf_cl.adapters.quantised import refuse_quantised
from hf_cl.adapters.tuner import HeadedTuner

_TRANSFORMERS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
_CLIP = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
_OPEN_CLIP = ["mlp.c_fc", "mlp.c_proj"]


class WeightTargets(HeadedTuner):
    """A tuner whose layers stand around single modules and change their weights; the Linears of attention and MLP by default."""

    kind: str
    takes: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)
    takes_words: str = "nn.Linear and nn.Conv2d"
    tuner_layer_cls: Any
    target_module_mapping: dict[str, list[str]] = {
        "vit": _TRANSFORMERS,
        "deit": _TRANSFORMERS,
        "dinov2": [*_TRANSFORMERS, "weights_in", "weights_out"],  # the giant model's SwiGLU
        "clip": _CLIP,
        "clip_vision_model": _CLIP,
        "clip_text_model": _CLIP,
        "siglip": _CLIP,
        "siglip_vision_model": _CLIP,
        "siglip_text_model": _CLIP,
        "timm_wrapper": ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"],
        "open_clip": _OPEN_CLIP,
        "custom": _OPEN_CLIP,  # what peft calls a model without a config: an open_clip model as it is
    }

    def check_config(self, config: Any) -> None:
        modules = dict(self.model.named_modules())
        if not any(isinstance(module, nn.MultiheadAttention) for module in modules.values()):
            return
        named = config.target_modules if not isinstance(config.target_modules, str) else [config.target_modules]
        for target in named or ():
            if "in_proj" in target and not any(f".{name}".endswith(f".{target}") for name in modules):
                raise ValueError(
                    f"{self.kind} cannot adapt {target!r}: in_proj_weight of an nn.MultiheadAttention is a parameter of its own, not a "
                    "module. Target the Linears of the blocks instead (open_clip: mlp.c_fc, mlp.c_proj)."
                )

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None and peft_config.exclude_modules is None and model_config["model_type"].startswith("siglip"):
            peft_config.exclude_modules = r"(.*\.)?head\..*"  # the pooling head: an nn.MultiheadAttention, and unused by the classifier
        config: Any = super()._prepare_adapter_config(peft_config, model_config)
        if not isinstance(config.target_modules, str) and is_low_rank(self.model):
            config.target_modules = self._pairs_apart(config.target_modules or ())
        return config

    def _pairs_apart(self, names: Iterable[str]) -> set[str]:
        """On a base of low rank a weight is two: names of pairs become those of their halves."""
        pairs = ranks(self.model)
        hit = {name for name in names if any(f".{pair}".endswith(f".{name}") for pair in pairs)}
        return {*(set(names) - hit), *(f"{name}.{half}" for name in hit for half in ("down", "up"))}

    def check_target(self, config: Any, target: nn.Module, name: str) -> None:
        """Raise ValueError, naming the module, where its weight cannot be changed by a layer around it."""
        kind = type(target).__name__
        if isinstance(target, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear)):
            raise ValueError(
                f"{self.kind} cannot adapt {name!r} ({kind}): nn.MultiheadAttention reads its tensors (in_proj_weight, out_proj) without "
                "calling the modules. Target the Linears of the blocks instead (open_clip: mlp.c_fc, mlp.c_proj)."
            )
        refuse_quantised(self.kind, name, target)
        self.check_kind(config, target, name)
        if not isinstance(target, self.takes):
            raise ValueError(f"{self.kind} adapts {self.takes_words}; {name!r} is a {kind}.")
        weight = dict(target.named_parameters(recurse=False)).get("weight")
        if weight is None:
            raise ValueError(f"{self.kind} needs a plain floating-point weight; that of {name!r} ({kind}) is parametrized or absent.")
        modules: dict[str, Any] = dict(self.model.named_modules())
        for other, layer in modules.items():
            if isinstance(layer, self.tuner_layer_cls) and getattr(layer.get_base_layer(), "weight", None) is weight:
                raise ValueError(f"{self.kind}: {name!r} and {other!r} share one weight; target only one of them.")

    def check_kind(self, config: Any, target: nn.Module, name: str) -> None:
        """Raise ValueError where the config does not grant modules of this kind."""
