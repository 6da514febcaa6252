"""The tuner layers of SARA.

Shapes: n trained entries of one adapter in one tensor; O, I rows and columns of a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_cl._peft import BufferDict
from hf_cl.adapters.sara.config import SaraConfig
from hf_cl.adapters.sara.entries import Entries, PartNames
from hf_cl.adapters.sara.selection import check_positions, select
from hf_cl.adapters.sara.sparse_linear import Block, SparseLinear, cut, moved
from hf_cl.adapters.wide_layer import WideLayer, check_finite

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

T = TypeVar("T")


class SaraLayer(WideLayer):
    """A module with moved entries: `sara_values` [n] (float32, differences), `sara_indices` [n] (int32) and `sara_active` [n] (bool).

    The effective entry is base + scaling * value; `sara_scaling` is 1 unless it is set. `sara_active` tells which entries still train; a
    state dict holds it only where some do not. With `include_bias_norm` the bias has the same three as `sara_bias_*`.
    """

    adapter_layer_names: tuple[str, ...] = ("sara_values", "sara_bias_values")
    other_param_names: tuple[str, ...] = (
        *("sara_indices", "sara_active", "sara_bias_indices", "sara_bias_active"),
        *("sara_scaling", "block_rows", "keeps_marks", "_read", "_unmerged"),
    )

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SaraConfig, module_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.module_name = module_name
        self.sara_values, self.sara_bias_values = nn.ParameterDict(), nn.ParameterDict()
        self.sara_indices, self.sara_bias_indices = BufferDict(persistent=True), BufferDict(persistent=True)
        self.sara_active, self.sara_bias_active = BufferDict(persistent=True), BufferDict(persistent=True)
        self.sara_scaling: dict[str, float] = {}
        self.block_rows: dict[str, int] = {}
        self.keeps_marks: dict[str, bool] = {}
        self._read: dict[str, dict[str, tuple[Tensor, int, Any]]] = {}
        self._unmerged: dict[str, list[Tensor]] = {}
        shape = self.original.weight.shape
        self.out_features, self.in_features = shape[0], shape[min(1, len(shape) - 1)]  # peft's own tests ask for these
        self.register_state_dict_post_hook(_drop_full_marks)
        self.register_load_state_dict_pre_hook(_add_full_marks)
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: SaraConfig) -> None:
        """Select the entries of one adapter; their differences start at 0 (or at small draws, with `init_weights=False`).

        Writes the module's counts and shape into the config. Raises ValueError where the config's record of them does not fit.
        """
        self.block_rows[adapter_name] = config.block_rows
        self.sara_scaling[adapter_name] = 1.0
        for name, tensor in self.base_tensors().items():
            if name == "weight" or config.include_bias_norm:
                self._check_record(config, self.key(name), tensor)
                indices = select(tensor, config, config.nnz_pattern.get(self.key(name)))
                config.nnz_pattern[self.key(name)] = len(indices)
                self.resize(adapter_name, name, len(indices), keeps_marks=config.has_inactive)
                self._parts(name)[1][adapter_name] = indices.to(tensor.device)
                if not config.init_weights:
                    nn.init.normal_(self._parts(name)[0][adapter_name], std=1e-2)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @staticmethod
    def _check_record(config: SaraConfig, key: str, tensor: Tensor) -> None:
        shape = list(tensor.shape)
        made_for, count = list(config.weight_shapes.setdefault(key, shape)), config.nnz_pattern.get(key, 0)
        if made_for != shape or not 0 <= count <= tensor.numel():
            raise ValueError(
                f"SARA: the adapter was made for a tensor of shape {made_for} with {count} trained entries at {key}; this base has {shape} "
                "there. Load the base that the adapter names, or make a new config to train on this one."
            )

    @staticmethod
    def part_names(name: str) -> PartNames:
        """Where the entries of the tensor `name` are."""
        prefix = "sara" if name == "weight" else f"sara_{name}"
        return PartNames(f"{prefix}_values", f"{prefix}_indices", f"{prefix}_active")

    def _parts(self, name: str) -> tuple[Any, Any, Any]:
        values, indices, active = (getattr(self, part) for part in self.part_names(name))
        return values, indices, active

    def key(self, name: str) -> str:
        """The name of a tensor in the config's `nnz_pattern` and `weight_shapes`: the module's for its weight."""
        return self.module_name if name == "weight" else f"{self.module_name}.{name}"

    def resize(self, adapter_name: str, name: str, count: int, keeps_marks: bool) -> None:
        """Room for `count` entries of the tensor `name`, all active: the checkpoint decides how many there are, not the local base.

        `keeps_marks`: the state dict holds `sara_active` in any case, since a file that has it is about to be loaded.
        """
        values, indices, active = self._parts(name)
        device = self.original.weight.device
        self.keeps_marks[adapter_name] = keeps_marks
        active[adapter_name] = torch.ones(count, dtype=torch.bool, device=device)
        if adapter_name in values and len(values[adapter_name]) == count:
            return
        trains = adapter_name not in values or values[adapter_name].requires_grad
        values[adapter_name] = nn.Parameter(torch.zeros(count, dtype=torch.float32, device=device), requires_grad=trains)
        indices[adapter_name] = torch.zeros(count, dtype=torch.int32, device=device)

    # What is there
    def base_tensors(self) -> dict[str, Tensor]:
        """The wrapped module's weight and, where it has one, its bias."""
        # by attribute: within its forward FSDP puts the tensors in use in front of the parameters
        found = {name: getattr(self.original, name, None) for name in ("weight", "bias")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def entries(self, adapter_name: str) -> list[Entries]:
        """What the adapter has in this module: entries of the weight, and of the bias if it trains."""
        found = []
        for name, tensor in self.base_tensors().items():
            values, indices, active = self._parts(name)
            if adapter_name in values:
                found.append(Entries(name, tensor, indices[adapter_name], active[adapter_name], values[adapter_name]))
        return found

    def marks(self) -> dict[str, Tensor]:
        """State-dict key within the layer -> which entries still train, of all adapters."""
        parts = {self.part_names(name).active: self._parts(name)[2] for name in ("weight", "bias")}
        return {f"{part}.{adapter_name}": marks for part, by_adapter in parts.items() for adapter_name, marks in by_adapter.items()}

    def _remember(self, adapter_name: str, what: str, tensor: Tensor, read: Callable[[], T]) -> T:
        """`read()`, which asks the device, is called again only after `tensor` was replaced or written."""
        known = self._read.setdefault(adapter_name, {})
        version = 0 if tensor.is_inference() else tensor._version
        if what not in known or known[what][0] is not tensor or known[what][1] != version:
            known[what] = (tensor, version, read())
        return known[what][2]

    def _blocks(self, adapter_name: str) -> list[Block] | None:
        """The weight's positions by blocks of rows, None for all at once."""
        step, weight, indices = self.block_rows[adapter_name], self.original.weight, self._parts("weight")[1][adapter_name]
        if not step:
            return None
        return self._remember(adapter_name, "blocks", indices, lambda: cut(indices, weight.shape[0], weight.shape[1], step))

    def check(self, adapter_name: str) -> None:
        """Raise ValueError for positions that are not sorted and distinct or lie beyond their tensor."""
        for e in self.entries(adapter_name):
            check_positions(e.indices, len(e.values), e.base.numel(), f"SARA adapter {adapter_name!r} at {self.module_name}.{e.name}")

    def num_active(self, adapter_name: str, name: str = "weight") -> int:
        """How many of the adapter's entries of a tensor still train."""
        active = self._parts(name)[2][adapter_name]
        return self._remember(adapter_name, f"active {name}", active, lambda: int(active.sum()))

    # What the adapters do to the base's tensors
    def applied(self) -> list[str]:
        """The adapters that the next forward applies to the base's tensors.

        Their positions are checked here, once after they were written, since every loading route ends here: some copy into the tensors,
        some replace them, none tells the layer.
        """
        names = self.in_force()
        if not torch.compiler.is_compiling():
            for name in names:
                self.refuse_offloaded(self.original.weight, self._parts("weight")[0][name])
                self._remember(name, "checked", self._parts("weight")[1][name], partial(self.check, name))
        return names

    def effective_tensors(self, adapter_names: list[str], only: str | None = None) -> dict[str, Tensor]:
        """The module's tensors (or the one named) with the adapters added up, differentiable in the values that train."""
        tensors = {name: tensor for name, tensor in self.base_tensors().items() if only in (None, name)}
        for adapter_name in adapter_names:
            for e in self.entries(adapter_name):
                if e.name not in tensors:
                    continue
                delta = torch.where(e.active, e.values, e.values.detach()) * self.sara_scaling[adapter_name]
                tensors[e.name] = moved(tensors[e.name], e.indices, delta)
        return tensors

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The change of the weight as a dense tensor of its shape and dtype."""
        e = self.entries(adapter_name)[0]
        return moved(torch.zeros_like(e.base), e.indices, e.values.detach() * self.sara_scaling[adapter_name])

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the effective entries into the base, with the same arithmetic as the forward pass.

        With `safe_merge`, raises ValueError before anything is written where an entry would not be finite.
        """
        for adapter_name in self.to_merge(adapter_names):
            merged = self.effective_tensors([adapter_name])
            if safe_merge:
                check_finite(adapter_name, merged.values())
            self._unmerged[adapter_name] = [e.base.flatten().index_select(0, e.indices) for e in self.entries(adapter_name)]
            for e in self.entries(adapter_name):
                e.base.copy_(merged[e.name])
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back what the base had, to the bit: a subtraction would not, in half precision not even nearly."""
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            for e, kept in zip(self.entries(adapter_name), self._unmerged.pop(adapter_name), strict=True):
                e.base.copy_(e.base.flatten().index_copy(0, e.indices.long(), kept.to(e.base)).view_as(e.base))

    def set_scale(self, adapter_name: str, scale: float) -> None:
        """Equation 9: W + scale * delta. Nothing where the module has no such adapter."""
        if self.has(adapter_name):
            self.sara_scaling[adapter_name] = scale

    def extra_repr(self) -> str:
        size = self.original.weight.numel()
        return ", ".join(f"{name}: {len(v)} of {size} entries ({len(v) / size:.2%})" for name, v in self.sara_values.items())


class SaraLinear(SaraLayer):
    """An `nn.Linear` with moved entries. One adapter runs without a kept copy of the weight; several are added up on a dense weight.

    The wrapped Linear is not called, so hooks on it do not run: put them on this layer.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # [B, I] -> [B, O]
        names = self.applied()
        if not names:
            return self.base_layer(x, *args, **kwargs)
        if len(names) > 1:
            tensors = self.effective_tensors(names)
            return nn.functional.linear(x, tensors["weight"], tensors.get("bias"))
        name, base = names[0], self.original
        bias = self.effective_tensors([name], only="bias")["bias"] if name in self.sara_bias_values else base.bias
        parts = self.sara_indices[name], self.sara_active[name], self.sara_values[name]
        return SparseLinear.apply(x, base.weight, bias, *parts, self.sara_scaling[name], self._blocks(name))  # pyright: ignore[reportReturnType]


class SaraModule(SaraLayer):
    """An `nn.Conv2d` or a norm with moved entries: the module itself, run with its effective tensors."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        names = self.applied()
        if not names:
            return self.base_layer(*args, **kwargs)
        tensors, attributes = self.effective_tensors(names), vars(self.original)
        in_front = {name: attributes.pop(name) for name in tensors if name in attributes}  # FSDP's: functional_call replaces what is behind
        try:
            return functional_call(self.original, tensors, args, kwargs)  # pyright: ignore[reportReturnType]
        finally:
            attributes.update(in_front)


def _drop_full_marks(layer: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """A state dict without `sara_active` means that everything trains: eight bytes an entry instead of nine."""
    assert isinstance(layer, SaraLayer)
    for key, marks in layer.marks().items():
        adapter_name = key.rpartition(".")[2]
        if not layer.keeps_marks[adapter_name] and (marks.device.type == "meta" or bool(marks.all())):
            del state_dict[prefix + key]


def _add_full_marks(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """The other direction, for adapters that the state dict has."""
    assert isinstance(layer, SaraLayer)
    for key, marks in layer.marks().items():
        values = state_dict.get(prefix + key.replace("_active.", "_values."))
        if values is not None:
            state_dict.setdefault(prefix + key, torch.ones(len(values), dtype=torch.bool, device=marks.device))
