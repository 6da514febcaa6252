"""Injection is all or nothing: what an adapter that does not fit has begun is taken back, so that the base is as it was."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, MutableSequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone_on_error(model: Any) -> Iterator[None]:
    """Put `model` back as it was where the block raises: its modules, parameters, buffers, hooks, attributes and labels.

    References are kept, no tensor is copied: the block may replace and freeze tensors, but must not write into them.
    """
    before = [(module, _remember(module)) for module in model.modules()]
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    labels = _labels(model)
    try:
        yield
    except BaseException:
        for module, attributes in before:
            _restore(module, attributes)
        for parameter, flag in trains:
            parameter.requires_grad_(flag)
        for name, value in labels.items():
            setattr(model.config, name, value)
        raise


Attribute = tuple[Any, Any]
"""The object an attribute names, and a copy of its content where it is a container."""


def _remember(module: nn.Module) -> dict[str, Attribute]:
    return {name: (value, _content(value)) for name, value in vars(module).items()}


def _content(value: Any) -> Any:
    if isinstance(value, MutableMapping):
        return dict(value)
    return list(value) if isinstance(value, MutableSequence) else None


def _restore(module: nn.Module, attributes: dict[str, Attribute]) -> None:
    own = vars(module)
    for name in own.keys() - attributes.keys():
        del own[name]
    for name, (value, content) in attributes.items():
        own[name] = value
        if isinstance(value, MutableMapping):  # in place: handles of hooks point to these containers
            value.clear()
            value.update(content)
        elif isinstance(value, MutableSequence):
            value[:] = content


def _labels(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {name: getattr(config, name) for name in ("id2label", "label2id") if config is not None and name in vars(config)}
