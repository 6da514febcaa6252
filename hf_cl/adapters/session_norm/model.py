"""The tuner of SESSION_NORM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.bases import family_of
from hf_cl.adapters.query_pass import QueryPass
from hf_cl.adapters.session_norm.config import SessionNormConfig
from hf_cl.adapters.session_norm.domains import Domains, looks
from hf_cl.adapters.session_norm.layer import SessionNormLayer
from hf_cl.adapters.weight_model import WeightModel

_ONE_TOWER = {
    "vit": r".*\b(layernorm_before|layernorm_after|layernorm)",
    "dinov2": r".*\b(norm1|norm2|layernorm)",
    "clip_vision": r".*\b(pre_layrnorm|layer_norm1|layer_norm2)",  # CLIP's classifier reads patches that skip the last norm
    "siglip_vision": r"(?!.*\bhead\.).*\b(layer_norm1|layer_norm2|post_layernorm)",  # and SigLIP's no pooling head
    "clip": r"(?!.*\btext_model\b).*\b(pre_layrnorm|layer_norm1|layer_norm2|post_layernorm)",
    "siglip": r"(?!.*\btext_model\b).*\b(layer_norm1|layer_norm2|post_layernorm|vision_model\.head\.layernorm)",
    "timm": r".*\b(norm1|norm2|timm_model\.norm|fc_norm)",
    "open_clip": r".*\bvisual\..*\b(ln_pre|ln_post|ln_1|ln_2)",
}
TARGETS = {**_ONE_TOWER, "deit": _ONE_TOWER["vit"]}
"""Family -> the norms of its vision tower that the features depend on."""
KNOWN = ("LayerNorm", "LayerNormFp32")
"""Class names of norms over the last dimension: torch's, timm's and open_clip's own. A LayerNorm2d moves its channels first."""


class SessionNormModel(WeightModel):
    """Scales and shifts of the LayerNorms of any vision tower. Starts as the identity, and merges, one domain at a time.

    Images of several domains find theirs by the rule that the part `DomainRule` writes, from the input of the first norm; training tells it
    (`given`), and `set_domain` chooses it for all.
    """

    prefix: str = "session_norm_"
    kind: str = "SESSION_NORM"
    tuner_layer_cls: Any = SessionNormLayer
    takes = (nn.LayerNorm,)
    takes_words = "nn.LayerNorm"

    # Injection
    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().put_adapter(model, adapter_name, *args, **kwargs)
        shared, layers = Domains(self._config(adapter_name)), self._layers(adapter_name)
        for layer in layers:
            layer.domains[adapter_name] = shared
        if shared.config.conditioning != "none":
            layers[0].be_host(adapter_name)
        self._pass()

    def _pass(self) -> QueryPass:
        """What tells the hosts that a forward begins."""
        return QueryPass.on(self.model, [layer for layer in self._layers() if len(layer.session_norm_rule)])

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            pattern = TARGETS.get(family_of(self.model))
            if pattern is None:
                raise ValueError(
                    f"hf_cl does not know the norms of {type(self.model).__name__}; name them: target_modules: [norm1, norm2]."
                )
            norms = (nn.LayerNorm, SessionNormLayer)  # the latter where another adapter is there
            modules = self.model.named_modules()
            peft_config.target_modules = {name for name, m in modules if isinstance(m, norms) and re.fullmatch(pattern, name)}
        return super()._prepare_adapter_config(peft_config, model_config)

    def check_kind(self, config: Any, target: nn.Module, name: str) -> None:
        if not isinstance(target, nn.LayerNorm) or type(target).__name__ not in KNOWN:
            raise ValueError(
                f"SESSION_NORM adapts LayerNorms over the last dimension; {name!r} is a {type(target).__name__}. Leave it out of "
                "target_modules."
            )
        tensors = dict(target.named_parameters(recurse=False))
        if {"weight", "bias"} - tensors.keys() or len(target.normalized_shape) != 1:
            raise ValueError(f"SESSION_NORM changes the scale and shift of a norm; {name!r} has no such pair of vectors.")

    def _layers(self, adapter_name: str | None = None) -> list[SessionNormLayer]:
        found = [module for module in self.model.modules() if isinstance(module, SessionNormLayer)]
        return found if adapter_name is None else [layer for layer in found if layer.has(adapter_name)]

    def _config(self, adapter_name: str) -> SessionNormConfig:
        return self.peft_config[adapter_name]  # pyright: ignore[reportReturnType]

    def _host(self, adapter_name: str) -> SessionNormLayer:
        return next(layer for layer in self._layers(adapter_name) if adapter_name in layer.session_norm_rule)

    # Domains
    def grow_domains(self, adapter_name: str, domain_names: Sequence[str]) -> None:
        config = self._config(adapter_name)
        if config.conditioning == "none" or len(domain_names) <= len(config.domains or ()):
            return
        config.domains = list(domain_names)
        for layer in self._layers(adapter_name):
            layer.grow(adapter_name)

    @contextmanager
    def given(self, batch: Mapping[str, Tensor], times: int = 1) -> Iterator[None]:
        told = [layer.domains[name] for name in self.active_adapters for layer in self._layers(name)[:1]]
        domain = batch.get("domain")
        for domains in told:
            domains.given = None if domain is None else domain.repeat(times)
        try:
            yield
        finally:
            for domains in told:
                domains.given = None

    def set_domain(self, domain: str | float | None) -> None:
        """Let the active adapters take all images for those of one domain, by its name; None: each image tells its own.

        Under `interpolate` a number on the scale of `codes` will do too.

        Raises ValueError for a domain that an adapter does not know, and a number outside of its codes.
        """
        for name in self.active_adapters:
            self._layers(name)[0].domains[name].choose(domain)

    @torch.no_grad()
    def looks(self, adapter_name: str, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, 2 D] by what images tell their domain: of the input of the first norm. Nothing behind it runs."""
        return looks(self._pass().input_of(self._host(adapter_name), pixel_values))

    @torch.no_grad()
    def write_rule(self, adapter_name: str, rule: Tensor) -> None:
        """Set the rule [S, 2 D + 1] by which images find their domain: weights and bias of a linear score for each."""
        self._host(adapter_name).session_norm_rule[adapter_name].copy_(rule)

    # Several adapters, and none
    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._pass()

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for name in self.active_adapters:
            domains = self._layers(name)[0].domains[name]
            if domains.varies:
                known = ", ".join(map(repr, domains.config.domains or ()))
                raise ValueError(
                    f"Adapter {name!r} has norms for the domains {known}, and a merged norm is one. Say which by `set_domain(name)` first."
                )

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        queries = self._pass()
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        queries.remove()
        return model
