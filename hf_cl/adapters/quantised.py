"""Which layers hold weights that cannot be read or written as plain numbers."""

from __future__ import annotations

from torch import nn

LIBRARIES = ("bitsandbytes", "torchao", "optimum", "quanto", "hqq")
"""Whose modules or tensors quantised layers are made of; `optimum` is quanto's package."""


def quantised_by(module: nn.Module) -> str | None:
    """The library that has quantised a layer, or the type of its weight where no such library is known; None for plain weights.

    A layer is quantised where its own class comes from such a library (HQQ, quanto), where its weight is a tensor of a type of its own
    (torchao says that it is floating), or holds integers (bitsandbytes).
    """
    weight = module._parameters.get("weight")
    if weight is not None and (not weight.is_floating_point() or type(weight) is not nn.Parameter):
        return _library(type(module)) or _library(type(weight)) or f"a weight of type {type(weight).__name__} ({weight.dtype})"
    return _library(type(module))


def refuse_quantised(kind: str, name: str, module: nn.Module) -> None:
    """Raise ValueError where an adapter type that reads and writes weights is put on a quantised layer.

    Args:
        kind: the adapter type.
        name: of the layer in the base.
        module: the layer.
    """
    if found := quantised_by(module):
        raise ValueError(
            f"{kind} reads and writes the weights of its layers, and {name!r} ({type(module).__name__}) is quantised: {found}. Load the "
            "base without quantization_config, or name layers in target_modules that are not quantised."
        )


def _library(kind: type) -> str | None:
    root = kind.__module__.partition(".")[0]
    return root if root in LIBRARIES else None
