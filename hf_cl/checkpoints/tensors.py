"""The tensors a run owns: adapter, head and the losses' own parameters, under names that do not depend on peft's nesting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from hf_cl.contracts import Head, LossTerm, NamedParameters

PEFT_ROOT = "base_model.model."
"""What a PeftModel puts before the names of the base's modules."""


def named_parameters(model: nn.Module, prefix: str, head: Head, terms: Iterable[LossTerm]) -> NamedParameters:
    """`head.*`, the adapter's parameters (peft's `prefix` is in their names), `losses.<term>.*`; nothing of the backbone."""
    named = [(f"head.{name}", p) for name, p in head.named_parameters()]
    named += [(name.removeprefix(PEFT_ROOT), p) for name, p in model.named_parameters() if prefix in name]
    for term in terms:
        if isinstance(term, nn.Module):
            named += [(f"losses.{term.name}.{name}", p) for name, p in term.named_parameters()]
    return named


def _owned(model: nn.Module, prefix: str, head: Head) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, attribute) of every parameter and buffer of adapter and head, non-persistent buffers included."""
    inside_head = {id(m) for m in head.modules()}
    for path, module in model.named_modules():
        local = [*module._parameters, *module._buffers]
        for attribute in local:
            name = f"{path}.{attribute}"
            if getattr(module, attribute) is not None and (id(module) in inside_head or prefix in name):
                yield name, module, attribute


def owned_tensors(model: nn.Module, prefix: str, head: Head) -> dict[str, Tensor]:
    """What a checkpoint holds of the model: references, not copies."""
    return {name: getattr(module, attribute) for name, module, attribute in _owned(model, prefix, head)}


def before_head(model: nn.Module, prefix: str, head: Head) -> dict[str, Tensor]:
    """All that features depend on and that may change, by name: the adapter's tensors, and buffers of the base. Its weights are frozen."""
    inside_head = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
    named = {name: p for name, p in model.named_parameters() if prefix in name} | dict(model.named_buffers())
    return {name: tensor for name, tensor in sorted(named.items()) if id(tensor) not in inside_head}


def digest_before_head(model: nn.Module, prefix: str, head: Head) -> str:
    """Of `before_head`. By content, since fused optimizers change tensors without counting it. Waits for the device."""
    total = hashlib.sha256()
    for name, tensor in before_head(model, prefix, head).items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@torch.no_grad()
def restore_tensors(model: nn.Module, prefix: str, head: Head, saved: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors back, in place.

    Raises ValueError where names or shapes differ: the checkpoint belongs to another configuration.
    """
    current = owned_tensors(model, prefix, head)
    if current.keys() != saved.keys():
        odd = sorted(current.keys() ^ saved.keys())
        raise ValueError(f"The checkpoint belongs to another configuration: {len(odd)} tensors are on one side only, e.g. {odd[0]}.")
    for name, module, attribute in _owned(model, prefix, head):
        tensor = getattr(module, attribute)
        if tensor.shape != saved[name].shape:
            raise ValueError(
                f"The checkpoint belongs to another configuration: {name} is {tuple(saved[name].shape)}, not {tuple(tensor.shape)}."
            )
        tensor.copy_(saved[name])


def snapshot(model: nn.Module, prefix: str, head: Head) -> dict[str, Tensor]:
    """Detached copies of adapter and head: an earlier state of the model without a second backbone."""
    return {name: tensor.detach().clone() for name, tensor in owned_tensors(model, prefix, head).items()}


def first_not_finite(named: NamedParameters) -> str | None:
    """Name of the first parameter with a value that is infinite or no number. Waits for the device once."""
    named = [(name, p) for name, p in named if p.numel()]
    with torch.no_grad():
        finite = torch.stack([p.isfinite().all() for _, p in named]).tolist() if named else []
    return next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)


def fingerprint(named: NamedParameters) -> str:
    """Of the adapter's weights: equal where features are. The head's and the losses' own parameters are after the features."""
    total = hashlib.sha256()
    for name, parameter in named:
        if not name.startswith(("head.", "losses.")):
            total.update(name.encode())
            total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if parameter.numel() else b"")
    return total.hexdigest()
