"""The tuner of SARA."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.files import Entry, check_entries
from hf_cl.adapters.sara.config import SaraConfig
from hf_cl.adapters.sara.entries import PartNames
from hf_cl.adapters.sara.layer import NORMS, SaraLayer, SaraLinear, SaraModule
from hf_cl.adapters.sara.selection import check_positions
from hf_cl.adapters.sara.training import SaraTraining


class SaraModel(SaraTraining):
    """SaRA on the Linear and Conv2d modules (and, on request, norms and biases) of any model.

    Starts as the identity. It can be merged, and several adapters add up.
    """

    prefix: str = "sara_"
    tuner_layer_cls: Any = SaraLayer
    kind: str = "SARA"
    takes = (nn.Linear, nn.Conv2d, *NORMS)
    takes_words: str = "nn.Linear, nn.Conv2d and norms"

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        selects = not self.peft_config[adapter_name].nnz_pattern  # else a checkpoint has selected
        super().put_adapter(model, adapter_name, *args, **kwargs)
        found = [e for _, layer in _layers_of(model, adapter_name) for e in layer.entries(adapter_name) if e.base.device.type != "meta"]
        chosen, everything = sum(len(e.values) for e in found), sum(e.base.numel() for e in found)
        if selects and found and chosen in (0, everything):
            raise ValueError(
                f"threshold={self.peft_config[adapter_name].threshold} selects {chosen} of the {everything} entries of the targeted "
                "modules. Give density (0.05 to 0.1) to train that share of each tensor, or another threshold."
            )

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: SaraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, SaraLayer):
            self.check_kind(peft_config, target.get_base_layer(), current_key)
            target.update_layer(adapter_name, peft_config)
            return
        self.check_target(peft_config, target, current_key)
        layer_class = SaraLinear if isinstance(target, nn.Linear) else SaraModule
        layer = layer_class(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def check_kind(self, config: SaraConfig, target: nn.Module, name: str) -> None:
        if isinstance(target, NORMS) and not config.include_bias_norm:
            raise ValueError(f"SARA adapts the norm {name!r} only with include_bias_norm=True.")

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # values are float32 on every base; half-precision ones, which stall in training, only where the user asks peft for them
        if not autocast_adapter_dtype:
            for _, layer in self.sara_layers(adapter_name):
                for e in layer.entries(adapter_name):
                    e.values.data = e.values.data.to(e.base.dtype)
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    can_be_emptied = True

    @torch.no_grad()
    def empty(self) -> None:
        for adapter_name in self.active_adapters:
            for _, layer in self.sara_layers(adapter_name):
                for e in layer.entries(adapter_name):
                    e.values.zero_()

    def set_scale(self, adapter_name: str, scale: float) -> None:
        """Weigh an adapter: P = P_0 + scale * dP (equation 9 of the paper; 0 to 2 in its appendix F). Not saved."""
        for _, layer in self.sara_layers(adapter_name):
            layer.set_scale(adapter_name, scale)

    @torch.no_grad()
    def add_weighted_adapter(self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
        """A new adapter that is exactly the weighted sum of others: dP = sum of weight * scale * dP (equation 10 of the paper).

        Raises ValueError for unknown adapters, numbers of adapters and weights that differ, a name in use, and adapters with class names:
        their heads do not add up.
        """
        unknown = [name for name in adapters if name not in self.peft_config]
        if unknown or not adapters or len(adapters) != len(weights) or adapter_name in self.peft_config:
            raise ValueError(
                f"add_weighted_adapter wants a new name and as many weights as adapters of {sorted(self.peft_config)}; "
                f"got {list(adapters)}, {list(weights)}, {adapter_name!r}."
            )
        if any(self.peft_config[name].class_names for name in adapters):
            raise ValueError("Adapters with class names have heads, which do not add up; add_weighted_adapter takes adapters without.")
        layers = _layers_of(self.model, *adapters)
        sums = {name: _weighted_sums(layer, adapters, weights) for name, layer in layers}
        config = copy.deepcopy(self.peft_config[adapters[0]])
        config.target_modules, config.exclude_modules, config.layers_to_transform = set(sums), None, None  # pyright: ignore
        config.include_bias_norm = any(self.peft_config[name].include_bias_norm for name in adapters)
        config.nnz_pattern = {layer.key(part): len(sums[name][part][0]) for name, layer in layers for part in sums[name]}
        config.weight_shapes, config.has_inactive = {}, False
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        for name, layer in _layers_of(self.model, adapter_name):
            for e in layer.entries(adapter_name):
                e.indices.copy_(sums[name][e.name][0])
                e.values.copy_(sums[name][e.name][1])

    # The file
    def check_file(self, file: Path, adapter_name: str, found: Mapping[str, Entry]) -> None:
        config: Any = self.peft_config[adapter_name]
        has_inactive = config.has_inactive
        expected = self.expected_entries(adapter_name)
        config.has_inactive = has_inactive  # asking for the entries settles it by the marks, which are not loaded yet
        layers = _layers_of(self.model, adapter_name)
        for name, layer in layers:
            for e in layer.entries(adapter_name):
                values, indices, active = (f"{name}.{part}" for part in layer.part_names(e.name))
                kinds = {values: "floating", indices: "i32"} | ({active: "bool"} if has_inactive else {})
                for key, kind in kinds.items():  # how many there are says the file
                    row = key in found and len(found[key].shape) == 1
                    expected[key] = Entry(found[key].shape if row else (len(e.values),), kind)
        check_entries(str(file), found, expected)
        tensors = self.tensors_of(file, adapter_name)
        for name, layer in layers:
            for e in layer.entries(adapter_name):
                _check_tensors(_tensors_of(tensors, name, layer.part_names(e.name)), e.base, f"{file} at {layer.module_name}.{e.name}")

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], unwanted_adapter_names: list[str]
    ) -> dict[str, Tensor]:
        entries = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        active = {
            f"{name}.{key}": marks
            for name, layer in _layers_of(model, adapter_name)
            for key, marks in layer.marks().items()
            if key.endswith(f".{adapter_name}")
        }
        # the marks of all modules or of none, and the config says which: every loading route then builds the tensors of the file
        config.has_inactive = not all(marks.is_meta or bool(marks.all()) for marks in active.values())
        entries = {key: tensor for key, tensor in entries.items() if key not in active}
        return entries | active if config.has_inactive else entries

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The checkpoint decides how many entries there are: |w| < threshold on a base of another dtype would give another number."""
        state_dict = cls.whole_state(model, config, adapter_name, state_dict)
        found = [
            (layer, e, _tensors_of(state_dict, name, layer.part_names(e.name)))
            for name, layer in _layers_of(model, adapter_name)
            for e in layer.entries(adapter_name)
        ]
        for layer, e, tensors in found:  # all of them before anything changes
            _check_tensors(tensors, e.base, f"SARA adapter {adapter_name!r} at {layer.module_name}.{e.name}")
        for layer, e, (values, _, active) in found:
            if values is not None:
                layer.resize(adapter_name, e.name, len(values), keeps_marks=active is not None)
                config.nnz_pattern[layer.key(e.name)] = len(values)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def _layers_of(model: nn.Module, *adapters: str) -> list[tuple[str, SaraLayer]]:
    """(name, layer) of the layers of `model` that at least one of the adapters has entries in."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, SaraLayer)]
    return [(name, layer) for name, layer in layers if any(layer.has(a) for a in adapters)]


def _weighted_sums(layer: SaraLayer, adapters: Sequence[str], weights: Sequence[float]) -> dict[str, tuple[Tensor, Tensor]]:
    """Tensor name -> (positions that any of the adapters has, weighted sum of their changes there)."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layer.base_tensors()}
    for adapter_name, weight in zip(adapters, weights, strict=True):
        for e in layer.entries(adapter_name):
            parts[e.name].append((e.indices, e.values.detach() * (weight * layer.sara_scaling[adapter_name])))
    sums = {}
    for name, found in parts.items():
        empty = torch.empty(0, dtype=torch.int32, device=layer.original.weight.device)
        positions, where = torch.cat([empty, *(indices for indices, _ in found)]).unique(return_inverse=True)  # sorted
        total = torch.zeros(len(positions), dtype=torch.float32, device=positions.device)
        for (_, values), here in zip(found, where.split([len(values) for _, values in found]), strict=True):
            total[here] += values  # an adapter's positions are distinct
        sums[name] = (positions, total)
    return sums


def _tensors_of(state_dict: Mapping[str, Tensor], name: str, parts: PartNames) -> list[Tensor | None]:
    """A checkpoint's values, positions and activity of one module; the module's name may begin with peft's own prefix there or not."""
    bare = name.removeprefix("base_model.model.")
    return [state_dict.get(f"{bare}.{part}", state_dict.get(f"base_model.model.{bare}.{part}")) for part in parts]


def _check_tensors(tensors: Sequence[Tensor | None], base: Tensor, where: str) -> None:
    """Raise ValueError where a checkpoint's tensors do not belong together or not to this base; none at all is peft's to report."""
    values, indices, active = tensors
    if values is None and indices is None:
        return
    if values is None or indices is None:
        raise ValueError(f"{where}: values and positions belong together, and the file has only one of them; it is damaged.")
    check_positions(indices, len(values), base.numel(), where)
    if active is not None and active.shape != values.shape:
        raise ValueError(f"{where}: {len(active)} marks of activity for {len(values)} values; the adapter's file is damaged.")
