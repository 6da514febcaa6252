"""The tuner of PROMPT_POOL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.adapters.prefix import PrefixLayer
from hf_cl.adapters.prefix_model import PrefixModel
from hf_cl.adapters.prompt_pool.layer import PromptPoolLayer, stacked
from hf_cl.adapters.prompt_pool.mvp import Mvp, Projection
from hf_cl.adapters.query_pass import QueryPass, query_width


class PromptPoolModel(PrefixModel):
    """L2P, DualPrompt, CODA-Prompt and MVP on the vision tower, which runs twice per image: once untouched for the query, once with rows.

    Train mode takes DualPrompt's entry of the newest session; eval mode never knows the session.
    """

    prefix: str = "prompt_pool_"
    kind = "PROMPT_POOL"
    tuner_layer_cls: Any = PromptPoolLayer

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().put_adapter(model, adapter_name, *args, **kwargs)
        layers = self.pool_layers()
        self.query_pass()
        leaders = [layer for layer in layers if adapter_name in layer.prompt_pool_count]
        for layer in layers:
            if leaders and isinstance(layer.producers.get(adapter_name), Mvp):
                layer.leaders[adapter_name] = leaders[0]
        config: Any = self.peft_config[adapter_name]
        if config.class_names:
            self.head_wrapper().inform([layer for layer in layers if len(layer.prompt_pool_count)])

    def make_layer(self, target: nn.Module, adapter_name: str, config: Any, current_key: str) -> PrefixLayer:
        layer = PromptPoolLayer(target, adapter_name, query_width(self.model))
        self.extend_layer(layer, adapter_name, config, current_key)
        return layer

    def extend_layer(self, layer: Any, adapter_name: str, config: Any, current_key: str) -> None:
        producer, query = config.producer_of(current_key), config.query or "output"
        if config.producer == "mvp" and layer.projection is None:
            block = self.model.get_submodule(current_key.rpartition(".")[0])
            layer.projection = Projection(block, layer.base_layer)
        layer.update_layer(adapter_name, producer, config.sessions, config.inference_mode, query)

    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        super().grow(adapter_name, class_names)
        if self.peft_config[adapter_name].grows:  # pyright: ignore[reportAttributeAccessIssue]
            for layer in self.pool_layers():
                if adapter_name in layer.producers:
                    layer.grow(adapter_name)

    def query_pass(self) -> QueryPass:
        """Of all pools."""
        return QueryPass.on(self.model, self.pool_layers())

    def pool_layers(self) -> list[PromptPoolLayer]:
        """In the order of the layers."""
        return [module for module in self.model.modules() if isinstance(module, PromptPoolLayer)]

    def chooser(self) -> PromptPoolLayer:
        """The layer with the keys of the active adapter of the producer mvp, and with how often each entry was chosen.

        Raises ValueError where there is not one.
        """
        found = [layer for layer in self.pool_layers() for name in self.active_adapters if name in layer.prompt_pool_count]
        if len(found) != 1:
            raise ValueError(f"This needs one active PROMPT_POOL adapter of the producer mvp; active are {self.active_adapters}.")
        return found[0]

    def components(self) -> list[dict[str, Tensor]]:
        """Per layer, keys, attentions and prompts [M, ...] of the active adapters of the producer coda."""
        names = [name for name in self.active_adapters if self.peft_config[name].producer == "coda"]  # pyright: ignore
        return [layer.pool(name) for layer in self.pool_layers() for name in names if name in layer.producers]

    @property
    def extras(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What a loss may read of a forward: where entries are chosen, `key_similarity` [B, S, M] and `chosen` [B, S, k] over S layers; of
        several active adapters those of the first, as the head is."""
        active = [self.peft_config[name] for name in self.active_adapters[:1]]
        return ("key_similarity", "chosen") if any(config.producer != "coda" for config in active) else ()  # pyright: ignore

    def take_extras(self) -> dict[str, Tensor]:
        produced = [layer.take_produced() for layer in self.pool_layers()]
        return stacked([one for one in produced if one is not None])

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        queries = self.query_pass()
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        queries.remove()
        return model
