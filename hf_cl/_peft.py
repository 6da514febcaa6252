"""The only file that changes peft or touches its private parts.

peft 0.21 has no route for types from outside: `register_peft_method` wants a member of the enum `PeftType`. `register_type` adds one and
registers it. Checked against peft 0.21.2; `tests/test_peft.py` fails loudly when peft changes what is relied on here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import register_peft_method
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

__all__ = [
    "DUMMY_TARGET_MODULES",
    "BaseTuner",
    "BaseTunerLayer",
    "BufferDict",
    "ModulesToSaveWrapper",
    "TensorlessLayer",
    "TunerLayer",
    "bypassed",
    "check_adapters_to_merge",
    "register_type",
]


def register_type(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make `name` (upper case) a peft type. Idempotent.

    The registered prefix is `model_cls.prefix`: parameter names must begin with it, else transformers' `load_adapter` drops every tensor
    without an error.

    Raises RuntimeError where peft has the type already with another config class.
    """
    member = _enum_member(name)
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if known is config_cls:
        return
    if known is not None:
        raise RuntimeError(f"peft already has a type {name} ({known.__module__}.{known.__qualname__}); hf_cl cannot register its own.")
    register_peft_method(name=name.lower(), config_cls=config_cls, model_cls=model_cls, prefix=model_cls.prefix)


def _enum_member(name: str) -> PeftType:
    """`PeftType.<name>`, added to the enum if peft does not have it."""
    if name in PeftType.__members__:
        return PeftType[name]
    member: Any = str.__new__(PeftType, name)
    try:
        member._name_, member._value_ = name, name
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType.__members__)
        type.__setattr__(PeftType, name, member)  # EnumMeta refuses assignment only for names that exist
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    except AttributeError as error:
        raise RuntimeError(f"This Python or peft builds enums in a way hf_cl does not know; the type {name} cannot be added.") from error
    return member


class TunerLayer(nn.Module, BaseTunerLayer):
    """Base of hf_cl's tuner layers: a wrapped module with per-adapter tensors beside it."""

    base_layer: nn.Module
    runs_whole: ClassVar[bool] = True
    """Whether its tensors are read inside of its own forward alone."""

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._active_adapter = adapter_name
        self._disable_adapters = False
        self.merged_adapters = []  # peft's class attribute is one list shared by all layers

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        # peft looks for `.weight`; a composite module (an attention block) has none
        parameter = next(base_layer.parameters())
        return parameter.device, parameter.dtype

    def refuse_offloaded(self, *tensors: torch.Tensor) -> None:
        """Raise ValueError where tensors that are read beside the wrapped module's own forward were moved off by accelerate."""
        if any(tensor.is_meta for tensor in tensors):
            kind = type(self).__name__
            whole = f"Keep these layers whole: preload_module_classes=['{kind}'], or load" if self.runs_whole else "Load"
            raise ValueError(
                f"The model is offloaded (cpu_offload, disk_offload or a device_map), and {kind} reads tensors that are not in memory "
                f"then. {whole} the model without offloading."
            )


class TensorlessLayer(nn.Module, BaseTunerLayer):
    """A tuner layer that wraps nothing and holds no tensors: it is there to be told what peft and transformers tell tuner layers."""

    def __init__(self) -> None:
        super().__init__()
        self.merged_adapters = []

    def get_base_layer(self) -> nn.Module:
        """An empty module: peft's own answer is the layer itself, which `weight` and `bias` then ask without end."""
        return nn.Identity()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        pass  # peft's own looks for the wrapped module's weight

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Nothing to merge; peft asks every tuner layer."""

    def unmerge(self) -> None:
        """Nothing to unmerge."""


@contextmanager
def bypassed(*models: nn.Module) -> Iterator[None]:
    """Run these, or the models that they are part of, without their adapters and heads.

    Unlike `PeftModel.disable_adapter()` it leaves requires_grad alone: peft's sets it on every active adapter tensor at exit, so that
    parameters which a phase has frozen would train again.
    """
    modules = [module for model in models for module in model.modules()]
    switched = [m for m in modules if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not m.disable_adapters]
    for module in switched:
        module._disable_adapters = True
    try:
        yield
    finally:
        for module in switched:
            module._disable_adapters = False
