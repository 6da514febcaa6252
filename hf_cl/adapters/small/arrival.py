"""Where codes and scales of a small adapter arrive in a model, whichever route brings them, and become the adapter's tensors.

peft hands a tuner the whole file before it loads (`whole_state`). transformers' `load_adapter` looks every name of the file up in the
model and puts the tensor there, without telling anybody: so a module of these names waits in the model (`Arrival`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_cl.adapters.files import Entry
from hf_cl.adapters.small.tensors import SCALE, Small, expand_all, read_table, sizes

CODES, SCALES = "codes", "scales"


def place_of(prefix: str) -> str:
    """The module, below the base model, whose tensors are an adapter's codes and scales. It begins with the type's prefix, as every name
    of its file must."""
    return f"{prefix}small"


def whole_entries(found: Mapping[str, Entry], table: Mapping[str, Small], prefix: str) -> dict[str, Entry]:
    """A small file's entries as those of the whole adapter that it stands for.

    Raises ValueError where codes or scales are missing, or not those of the table.
    """
    code_bytes, scales = sizes(table)
    expected = {CODES: Entry((code_bytes,), "u8"), SCALES: Entry((scales,), "floating")}
    names = {f"{place_of(prefix)}.{kind}": entry for kind, entry in expected.items()}
    for name, entry in names.items():
        if found.get(name) != entry:
            raise ValueError(
                f"The config's table of small tensors takes {name} of shape {list(entry.shape)}, and the file has "
                f"{'none' if name not in found else list(found[name].shape)}: it is damaged, or its config belongs to another one."
            )
    rest = {name: entry for name, entry in found.items() if name not in names}
    return rest | {name: Entry(one.shape, "floating" if one.kind == "values" else "i32") for name, one in table.items()}


def whole_tensors(state: Mapping[str, Tensor], table: Mapping[str, Small], prefix: str) -> dict[str, Tensor]:
    """A small file's tensors as those of the whole adapter; names keep what stands in front of them. Raises ValueError as `expand_all`."""
    last = f"{place_of(prefix)}.{CODES}"
    lead = next(name for name in state if name.endswith(last)).removesuffix(last)
    small = {f"{lead}{place_of(prefix)}.{kind}" for kind in (CODES, SCALES)}
    rest = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state.items() if name not in small}
    expanded = expand_all(table, *(state[f"{lead}{place_of(prefix)}.{kind}"] for kind in (CODES, SCALES)))
    return rest | {lead + name: tensor for name, tensor in expanded.items()}


class Arrival(nn.Module):
    """The names `codes` and `scales` of one adapter; once both were assigned, `fill` is called with its tensors, and this is gone.

    Until then a state dict of the model has these two in the place of the tensors that they stand for.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, table: Mapping[str, Small], fill: Callable[[dict[str, Tensor]], None], hiding: RemovableHandle) -> None:
        super().__init__()
        code_bytes, scales = sizes(table)
        self.register_buffer(CODES, torch.zeros(code_bytes, dtype=torch.uint8))
        self.register_buffer(SCALES, torch.zeros(scales, dtype=SCALE))
        self._table, self._fill, self.hiding = dict(table), fill, hiding
        self._missing = {CODES, SCALES}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        missing: set[str] = vars(self).get("_missing", set())
        if name in missing:
            missing.remove(name)
            if not missing:
                self._fill(expand_all(self._table, self.codes, self.scales))


class _Hidden:
    """A hook on state dicts: without these names."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        for name in self.names:
            state_dict.pop(prefix + name, None)


def await_codes(
    model: nn.Module, prefix: str, adapter_name: str, config: Any, bare: Callable[[str], str], load: Callable[[dict[str, Tensor]], None]
) -> None:
    """Let codes and scales of an adapter, which is in its place with other values, arrive in `model`.

    Args:
        model: the base, with the adapter's layers.
        prefix: of the adapter type.
        adapter_name: which adapter.
        config: its own; `small` is None from the moment that its tensors are whole.
        bare: makes the name in a file of the name in the model.
        load: puts whole tensors, named as in a file, into the model.
    """

    def fill(tensors: dict[str, Tensor]) -> None:
        stop_waiting(model, prefix, adapter_name)
        config.small = None
        load(tensors)

    table = read_table(config.small)
    hidden = frozenset(name for name in model.state_dict() if bare(name) in table)
    arrival = Arrival(table, fill, model.register_state_dict_post_hook(_Hidden(hidden)))
    holder: Any = dict(model.named_children()).get(place_of(prefix))
    if holder is None:
        holder = nn.ModuleDict()
        model.add_module(place_of(prefix), holder)
    holder[adapter_name] = arrival


def stop_waiting(model: nn.Module, prefix: str, adapter_name: str) -> None:
    """The adapter's tensors are there: nothing is left in `model` of the place where its codes arrived, if there was one."""
    place = place_of(prefix)
    for module in [m for m in model.modules() if place in m._modules]:
        holder: Any = module.get_submodule(place)
        if adapter_name in holder:
            holder[adapter_name].hiding.remove()
            del holder[adapter_name]
        if not len(holder):
            delattr(module, place)
