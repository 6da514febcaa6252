"""What SARA adds to a stock optimizer: weight decay on the entry's value, and entries that stay where they are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hf_cl.adapters.sara.model import SaraModel


def sara_lr(threshold: float) -> float:
    """The official learning rate for a threshold: 1e-3 * exp(-350 * threshold)."""
    return 1e-3 * math.exp(-350 * threshold)


class _Hooks:
    """The two hooks of `attach`."""

    def __init__(self, tuner: SaraModel, weight_decay: float) -> None:
        self.tuner, self.weight_decay = tuner, weight_decay
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        self.kept = []
        for layer in self.tuner.all_sara_layers():
            for adapter_name in layer.sara_values:
                for e in layer.entries(adapter_name):
                    if id(e.values) not in rates or e.values.grad is None:  # the optimizer skips it, so does the decay
                        continue
                    if layer.num_active(adapter_name, e.name) < len(e.values):
                        self.kept.append((e.values, e.active, e.values.clone()))
                    if self.weight_decay:
                        shrink = rates[id(e.values)] * self.weight_decay
                        e.values.mul_(1 - shrink).sub_(e.base_values(), alpha=shrink)

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for values, active, before in self.kept:
            values.copy_(torch.where(active, values, before))
        self.kept = []


def attach(optimizer: Optimizer, tuner: SaraModel, weight_decay: float) -> tuple[RemovableHandle, RemovableHandle]:
    """Make `optimizer` train the entries of `tuner` as SaRA does. Call it on the torch optimizer itself, before `accelerator.prepare`.

    Before each step the entries' values are decayed, v <- v (1 - lr wd) - lr wd p0 with p0 the base's entry: what AdamW does to the weight
    itself, while its own decay would act on the difference. So the optimizer's own `weight_decay` must be 0 for these parameters; for
    decay of the difference set that one and pass 0 here. After each step, entries that a progressive switch has stopped are put back:
    momentum and decay do not move them, and the optimizer's state keeps its size.

    Returns the handles of the two hooks.

    Raises ValueError where the optimizer has a decay of its own beside this one, or none of the tuner's parameters.
    """
    values = {id(e.values) for layer in tuner.all_sara_layers() for name in layer.sara_values for e in layer.entries(name)}
    groups = [group for group in optimizer.param_groups if any(id(p) in values for p in group["params"])]
    if not groups:
        raise ValueError("attach: the optimizer has none of the SARA adapter's parameters.")
    if weight_decay and any(group.get("weight_decay") for group in groups):
        raise ValueError("attach: decay would act twice; set the optimizer's own weight_decay to 0 for the SARA parameters.")
    hooks = _Hooks(tuner, weight_decay)
    return optimizer.register_step_pre_hook(hooks.before), optimizer.register_step_post_hook(hooks.after)
