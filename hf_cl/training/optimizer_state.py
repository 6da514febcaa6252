"""An optimizer's state that goes on from session to session, though the parameters are made anew when they grow.

Shapes: C rows that a parameter had, n rows that it has grown by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_cl.contracts import NamedParameters

StateByName = dict[str, dict[str, Any]]
"""Name of a parameter -> what the optimizer knows of it; tensors keep their place."""


def state_by_name(optimizer: Optimizer, named_parameters: NamedParameters) -> StateByName:
    """What it knows by now, copied; parameters that it has not stepped are left out."""
    found: StateByName = {}
    for name, parameter in named_parameters:
        state = optimizer.state.get(parameter)
        if state:
            copied = {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}
            found[name] = {**copied, SHAPE: list(parameter.shape)}
    return found


SHAPE = "shape"
"""Beside the state, of the parameter at that time."""


def carry_over(state: Mapping[str, Mapping[str, Any]], optimizer: Optimizer, named_parameters: NamedParameters) -> None:
    """Put it into the next session's optimizer, before its first step.

    A tensor of its parameter's size gets zeros for the n rows that the parameter has grown by: moments of rows that had no gradient yet.
    Counts of steps go on for all rows alike. That equals a parameter of full size from the beginning, whose later rows got zero gradients.
    Parameters that are gone are left out, and new ones begin with nothing.

    Raises ValueError, naming it, for a parameter that has changed otherwise than by rows at its end.
    """
    place = {id(parameter): number for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    mine = {name: parameter for name, parameter in named_parameters if id(parameter) in place and name in state}
    given = {place[id(parameter)]: _grown(name, parameter, state[name]) for name, parameter in mine.items()}
    if given:
        optimizer.load_state_dict({"state": given, "param_groups": optimizer.state_dict()["param_groups"]})


def _grown(name: str, parameter: Tensor, state: Mapping[str, Any]) -> dict[str, Any]:
    before, now = torch.Size(state[SHAPE]), parameter.shape
    if before != now and (before[1:] != now[1:] or len(before) != len(now) or before[0] > now[0]):
        raise ValueError(
            f"optimizer_lasts 'run': {name} has had the shape {list(before)} and has {list(now)} now, so that its optimizer's state does "
            "not fit. Rows may be added at its end; else say optimizer_lasts 'session'."
        )
    return {key: _padded(value, before, now) for key, value in state.items() if key != SHAPE}


def _padded(value: Any, before: torch.Size, now: torch.Size) -> Any:
    """[C, ...] -> [C + n, ...]"""
    if before == now or not isinstance(value, Tensor) or value.shape != before:
        return value
    return torch.cat([value, value.new_zeros(now[0] - before[0], *now[1:])])
