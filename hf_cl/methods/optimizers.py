"""The optimizers of methods that publish none of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hf_cl.contracts import NamedParameters, Schedule, Session
from hf_cl.methods.schedules import cosine


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


def falling_adam(
    learning_rate: float,
    epochs: int,
    weight_decay: float = 0.0,
    *,
    session_learning_rate: float | None = None,
    session_epochs: int | None = None,
    factor: Callable[[str], float] | None = None,
) -> Callable[[Session, NamedParameters], tuple[torch.optim.Optimizer, Schedule]]:
    """A method's `optimizer`: `adam` in each session anew, with a rate that falls to nearly 0 by a cosine over the session's epochs.

    Args:
        learning_rate, epochs: of session 0.
        weight_decay, factor: as in `adam`.
        session_learning_rate, session_epochs: of later sessions; None: as in session 0.
    """
    rates = (learning_rate, learning_rate if session_learning_rate is None else session_learning_rate)
    lengths = (epochs, epochs if session_epochs is None else session_epochs)

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        later = session.id > 0
        return adam(named_parameters, rates[later], cosine([rates[later]], lengths[later]), weight_decay, factor)

    return optimizer
