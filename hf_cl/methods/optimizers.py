"""The optimizer of methods that publish none of their own."""

from __future__ import annotations

import torch

from hf_cl.contracts import NamedParameters, Schedule


def adam(
    named_parameters: NamedParameters, learning_rate: float, schedule: Schedule, weight_decay: float = 0.0
) -> tuple[torch.optim.Optimizer, Schedule]:
    """Adam over all parameters, or with a weight decay AdamW: decoupled (Loshchilov, Hutter: ICLR 2019), and not of norms and biases.

    The decay moves the rows of earlier classes too, which get no gradient where a loss masks them.

    Args:
        named_parameters: of the session.
        learning_rate: at its start.
        schedule: of one rate, which all groups get.
        weight_decay: 0 is Adam.

    Raises ValueError for a negative decay.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}.")
    if not weight_decay:
        return torch.optim.Adam([p for _, p in named_parameters], lr=learning_rate), schedule
    matrices = [p for _, p in named_parameters if p.dim() > 1]
    vectors = [p for _, p in named_parameters if p.dim() <= 1]
    groups = [{"params": params, "weight_decay": decay} for params, decay in ((matrices, weight_decay), (vectors, 0.0)) if params]

    def every_group(epoch: int, step: int) -> list[float]:
        return list(schedule(epoch, step)) * len(groups)

    return torch.optim.AdamW(groups, lr=learning_rate), every_group
