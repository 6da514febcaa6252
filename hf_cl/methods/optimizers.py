"""The optimizer of methods that publish none of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hf_cl.contracts import NamedParameters, Schedule


def adam(
    named_parameters: NamedParameters,
    learning_rate: float,
    schedule: Schedule,
    weight_decay: float = 0.0,
    factor: Callable[[str], float] | None = None,
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Adam over all parameters, or with a weight decay AdamW: decoupled (Loshchilov, Hutter: ICLR 2019), and not of norms and biases.

    The decay moves the rows of earlier classes too, which get no gradient where a loss masks them.

    Args:
        named_parameters: of the session.
        learning_rate: at its start.
        schedule: of one rate, which all groups get.
        weight_decay: 0 is Adam.
        factor: of a parameter's rate, by its name; None: 1 for all.

    Raises ValueError for a negative decay.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}.")
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for decay in (weight_decay, 0.0) if weight_decay else (0.0,):
        for name, parameter in named_parameters:
            if not weight_decay or (parameter.dim() > 1) == (decay > 0):
                groups.setdefault((1.0 if factor is None else factor(name), decay), []).append(parameter)
    made = [{"params": params, "weight_decay": decay, "lr": learning_rate * share} for (share, decay), params in groups.items()]
    shares = [share for share, _ in groups]

    def every_group(epoch: int, step: int) -> list[float]:
        (rate,) = schedule(epoch, step)
        return [rate * share for share in shares]

    return (torch.optim.AdamW if weight_decay else torch.optim.Adam)(made, lr=learning_rate), every_group
