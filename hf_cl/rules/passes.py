"""What gradient rules share: one pass over an optimizer step's micro-batches, random states, gradients put aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Losses = Mapping[str, Tensor]

_SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM")


def total(losses: Losses) -> Tensor:
    """The sum of all losses: what a pass differentiates by default."""
    return torch.stack(list(losses.values())).sum()


def run_pass(
    closures: Sequence[Callable[[], dict[str, Tensor]]],
    accelerator: Any,
    model: nn.Module,
    objective: Callable[[Losses], Tensor] = total,
) -> dict[str, Tensor]:
    """Forward and backward of all micro-batches; gradients add up in `p.grad`, and the last backward synchronises them.

    Returns the named losses, detached, summed over the micro-batches.
    """
    sums: dict[str, Tensor] = {}
    for i, closure in enumerate(closures):
        last = i == len(closures) - 1
        with nullcontext() if last else accelerator.no_sync(model):  # DDP decides in the forward: both must lie inside
            losses = closure()
            accelerator.backward(objective(losses))
        for name, value in losses.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
    return sums


def put_gradients_aside(parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Empty every `p.grad` and return (parameter, copy of its gradient) of those that had one.

    Copies, since DDP may keep gradients as views of its buckets, which the next pass overwrites.
    """
    aside = [(p, p.grad.clone()) for p in parameters if p.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    return aside


def add_gradients(aside: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Add gradients that were put aside to what `p.grad` holds by now."""
    for parameter, gradient in aside:
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)


class RandomState:
    """State of the CPU's and the device's random generator at a moment. Reading it does not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._cpu = torch.get_rng_state()
        self._device = None if self._module is None else self._module.get_rng_state()

    def restore(self) -> None:
        """Set both generators back to that moment."""
        torch.set_rng_state(self._cpu)
        if self._module is not None:
            self._module.set_rng_state(self._device)


def refuse_sharded(accelerator: Any, rule: object) -> None:
    """Raise ValueError where the gradients of a whole step are not in `p.grad` on every process."""
    for kind in _SHARDED:
        if accelerator.distributed_type == kind:  # a string enum of accelerate's
            raise ValueError(
                f"The gradient rule {type(rule).__name__} needs whole parameters and gradients on every process; {kind} shards them. "
                "Train on one process or with DDP (accelerate's MULTI_GPU), or use the rule Plain."
            )
