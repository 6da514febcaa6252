"""The tuner of HYPER_LORA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.hyper_lora.config import HyperLoraConfig
from hf_cl.adapters.hyper_lora.generator import Generator
from hf_cl.adapters.hyper_lora.layer import HyperLoraLayer, Made
from hf_cl.adapters.lora_files import save_lora
from hf_cl.adapters.quantised import refuse_quantised
from hf_cl.adapters.query_pass import QueryPass, query_width
from hf_cl.adapters.query_value import QueryValueTuner
from hf_cl.hints import refuse


class HyperLoraModel(QueryValueTuner):
    """Generated LoRA on the vision tower of ViT, DeiT, Dinov2, CLIP and SigLIP models.

    Train mode takes the factors of the newest session. Eval mode finds an image's session by its query, a pass of the untouched tower,
    unless `set_session` says it.
    """

    prefix: str = "hyper_lora_"
    tuner_layer_cls: Any = HyperLoraLayer

    # Injection
    def check_config(self, config: HyperLoraConfig) -> None:
        self.check_rank(config.r)
        refuse(config.misfits(self.model))

    def put_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,  # its keys would name the host alone: the config says where LoRA goes
    ) -> None:
        super().put_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)
        generator = self._put_generator(model, adapter_name)
        _settle(generator, self._host(adapter_name).base_layer, low_cpu_mem_usage)
        self.query_pass()
        if self._config(adapter_name).class_names:
            self.head_wrapper().inform(self.hosts())

    def _put_generator(self, model: nn.Module, adapter_name: str) -> Generator:
        """Once all layers are there: their shapes, and their order by depth and then by name, are the generator's."""
        config = self._config(adapter_name)
        found = {path: m for path, m in model.named_modules() if isinstance(m, HyperLoraLayer) and adapter_name in m.scaling}
        paths = sorted(found, key=lambda path: (config.depth_of(path), path))
        _check_paths(config, paths)
        layers = [found[path] for path in paths]
        host = layers[0]
        generator = Generator([(layer.in_features, layer.out_features) for layer in layers], config, query_width(model))
        generator.requires_grad_(adapter_name in self.active_adapters and not config.inference_mode)
        host.hyper_lora_generator[adapter_name] = generator.train(host.training)
        host.by_query[adapter_name] = config.session_inference == "prototype"
        for place, layer in enumerate(layers):
            layer.places[adapter_name] = (host, place)
        return generator

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride] (peft's own tuners do the same)
        self,
        peft_config: HyperLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        base = target.base_layer if isinstance(target, HyperLoraLayer) else target
        refuse_quantised("HYPER_LORA", current_key, base)
        if not isinstance(base, nn.Linear):
            raise ValueError(f"HYPER_LORA puts LoRA on nn.Linear modules; {current_key!r} is a {type(base).__name__}.")
        if not isinstance(target, HyperLoraLayer):
            target = HyperLoraLayer(base, adapter_name).train(base.training)
            target.set_adapter(self.active_adapters)
            setattr(parent, target_name, target)
        target.scaling[adapter_name] = peft_config.scaling

    # Sessions
    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        super().grow(adapter_name, class_names)
        host = self._host(adapter_name)
        host.generator(adapter_name).grow(self._config(adapter_name))

    def generator(self, adapter_name: str) -> Generator:
        """Of one adapter."""
        return self._host(adapter_name).generator(adapter_name)

    def set_session(self, session: int | None) -> None:
        """In eval mode let the active adapters take the factors of one session for all images; None: as `session_inference` says.

        Raises ValueError for a session that an adapter was never trained on.
        """
        for name in self.active_adapters:
            host, sessions = self._host(name), self.generator(name).sessions
            if session is not None and not 0 <= session < sessions:
                raise ValueError(f"Adapter {name!r} has no session {session}: it was trained on sessions 0 to {sessions - 1}.")
            if session is None:
                host.chosen.pop(name, None)
            else:
                host.chosen[name] = session

    @contextmanager
    def fixed_factors(self, adapter_name: str, pairs: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """For a batch of B images let an adapter take A [B, r, in] and B [B, out, r] of each layer as they are given."""
        host, each = self._host(adapter_name), torch.arange(len(pairs[0][0]), device=pairs[0][0].device)  # [B]
        host.fixed[adapter_name] = Made(pairs, each)
        try:
            yield
        finally:
            del host.fixed[adapter_name]

    def query_pass(self) -> QueryPass:
        """Of all adapters."""
        return QueryPass.on(self.model, self.hosts())

    @torch.no_grad()
    def queries(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, Q] by what an image finds its session: of the untouched tower."""
        return self.query_pass().query(pixel_values)

    @torch.no_grad()
    def write_means(self, adapter_name: str, first: int, means: Tensor) -> None:
        """Set the mean queries [n, Q] of the classes from position `first` on; each is brought to unit length."""
        rows = self.generator(adapter_name).means[first : first + len(means)]
        rows.copy_(nn.functional.normalize(means.to(rows), dim=-1))

    def hosts(self) -> list[HyperLoraLayer]:
        """Layers that hold an adapter's generator."""
        return [m for m in self.model.modules() if isinstance(m, HyperLoraLayer) and len(m.hyper_lora_generator)]

    def _host(self, adapter_name: str) -> HyperLoraLayer:
        return next(host for host in self.hosts() if adapter_name in host.hyper_lora_generator)

    def _config(self, adapter_name: str) -> HyperLoraConfig:
        return self.peft_config[adapter_name]  # pyright: ignore[reportReturnType]

    # Several adapters, and none
    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.query_pass()

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for name in self.active_adapters:
            host = self._host(name)
            if host._finds_session(name):
                raise ValueError(
                    f"Adapter {name!r} has {host.generator(name).sessions} sessions, and an image finds its own; a weight can hold one. "
                    "Say which by `set_session(number)` first."
                )

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        queries = self.query_pass()
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        queries.remove()
        return model

    def to_lora(self, folder: str | Path, session: int | None = None) -> None:
        """Write the factors of one session (None: the newest) as a stock LORA adapter, which peft alone can load.

        A linear head goes with it as `modules_to_save`, other heads do not. Raises ValueError where there is not one active adapter, and
        for a session that it was never trained on.
        """
        if len(self.active_adapters) != 1:
            raise ValueError(f"This needs exactly one active adapter; active are {self.active_adapters}.")
        name = self.active_adapters[0]
        config, generator = self._config(name), self.generator(name)
        number = generator.sessions - 1 if session is None else session
        if not 0 <= number < generator.sessions:
            raise ValueError(f"Adapter {name!r} has no session {number}: it was trained on sessions 0 to {generator.sessions - 1}.")
        with torch.no_grad():
            pairs = generator(generator.embeddings()[number][None]).pairs
        factors = {path: (a[0], b[0]) for path, (a, b) in zip(config.layer_paths or (), pairs, strict=True)}
        save_lora(Path(folder), config, factors, name, self.model)


def _settle(generator: Generator, base_layer: nn.Module, low_cpu_mem_usage: bool) -> None:
    """Where peft would put it: parameters in the base's type, which it casts afterwards, and without memory until a file is read."""
    weight = next(base_layer.parameters())
    if low_cpu_mem_usage:
        for name, parameter in list(generator.named_parameters()):
            setattr(generator, name, nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad))
    if generator.embedding.is_meta:
        return
    generator.to(weight.device)
    for parameter in generator.parameters():  # means and past embeddings stay float32
        parameter.data = parameter.data.to(weight.dtype)


def _check_paths(config: HyperLoraConfig, paths: list[str]) -> None:
    """The order of the layers is part of what was trained."""
    if config.layer_paths is None:
        config.layer_paths = paths
    if config.layer_paths != paths:
        pairs = zip([*config.layer_paths, "none"], [*paths, "none"], strict=False)
        first, (theirs, here) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ValueError(
            f"HYPER_LORA generates layer after layer, and this adapter was trained for others: layer {first} is {theirs} there and {here} "
            "here. Load the base that the adapter names, with the target_modules it was trained with."
        )
