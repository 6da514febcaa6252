"""The tuner of DST."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_cl.adapters.dst.layer import INDICES, KEPT_INDICES, DstLayer
from hf_cl.adapters.dst.rewiring import Draw, densities
from hf_cl.adapters.files import Entry
from hf_cl.adapters.weight_model import WeightModel

_ROLE = "session-"


class DstModel(WeightModel):
    """Sparse differences on the Linear and Conv2d modules of any model, which are rewired while they train. Starts as the identity, merges,
    and several adapters add up.

    As role `session-<j>` it is what it was at the end of session j, to the bit: later sessions' entries are left out.
    """

    prefix: str = "dst_"
    kind: str = "DST"
    tuner_layer_cls: Any = DstLayer

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config: Any = self.peft_config[adapter_name]
        is_new = not config.nnz_pattern  # else a file has the positions
        super().put_adapter(model, adapter_name, *args, **kwargs)
        if not is_new:
            return
        layers = list(self.weight_layers(adapter_name))
        shapes = [layer.original.weight.shape for _, layer in layers]
        for (name, layer), share in zip(layers, densities(shapes, config.density, config.init), strict=True):
            count = min(max(1, round(share * layer.original.weight.numel())), layer.original.weight.numel())
            config.nnz_pattern[name] = count
            layer.start(adapter_name, config, count)

    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        super().grow(adapter_name, class_names)
        config: Any = self.peft_config[adapter_name]
        if config.grows:
            for _, layer in self.weight_layers(adapter_name):
                layer.grow(adapter_name, config, config.sessions - 1)

    # Rewiring
    def keep_dense(self, keep: bool) -> None:
        """Whether the next step's dense gradients are kept for a rewiring, one float32 matrix a layer."""
        for _, layer in self.weight_layers():
            layer.keeps_dense = keep
            layer.dense.clear()

    @torch.no_grad()
    def rewire(self, rate: float, draw: Draw, optimizer: Optimizer, reduce: Callable[[Tensor], Tensor]) -> int:
        """Rewire every layer of the one active adapter; returns how many entries changed place.

        Args:
            rate: share of each layer's entries.
            draw: random orders, the same on every process.
            optimizer: what trains the values; its moments move along.
            reduce: makes a dense gradient that of all processes.
        """
        name, changed = self.active_adapters[0], 0
        config: Any = self.peft_config[name]
        for _, layer in self.weight_layers(name):
            values = layer.dst_values[name]
            moments = [t for t in optimizer.state.get(values, {}).values() if isinstance(t, Tensor) and t.shape == values.shape]
            if name in layer.dense:
                layer.dense[name] = reduce(layer.dense[name])
            elif config.wants_dense_gradient:
                raise RuntimeError(f"DST: {layer.module_name} has no dense gradient; call keep_dense(True) before the step.")
            changed += layer.rewire(name, config, rate, draw, moments)
        return changed

    # As it was
    @property
    def roles(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        config: Any = self.peft_config[self.active_adapters[0]]
        return tuple(f"{_ROLE}{number}" for number in range(config.sessions))

    @contextmanager
    def role(self, name: str, images: Tensor | None = None) -> Iterator[None]:
        """The model as it was at the end of a session, for a while."""
        layers = [layer for _, layer in self.weight_layers()]
        for layer in layers:
            layer.until = int(name.removeprefix(_ROLE))
        try:
            yield
        finally:
            for layer in layers:
                layer.until = None

    def check_file(self, file: Path, adapter_name: str, found: Mapping[str, Entry]) -> None:
        super().check_file(file, adapter_name, found)
        tensors = self.tensors_of(file, adapter_name)
        for name, layer in self.weight_layers(adapter_name):
            try:
                layer.check(adapter_name, tensors[f"{name}.{INDICES}"], tensors.get(f"{name}.{KEPT_INDICES}", ()))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
