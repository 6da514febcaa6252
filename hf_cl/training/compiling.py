"""torch.compile for what does not change shape: the backbone with its adapter, and not the head, which grows.

A graph of the whole model is of no use once the head has grown. torch compiles another one then, and after eight it gives up with a line in
the log and runs the model uncompiled. What lies before the head is compiled once and serves all sessions: one graph for each set of
parameters that trains, whatever the number of images or texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.head_wrapper import HeadWrapper


def compile_backbone(model: nn.Module, **arguments: Any) -> None:
    """Compile the towers of a base with an adapter inside, in place; names of modules and parameters stay.

    They run compiled in train mode. In eval mode, where evaluation and frozen roles swap parameters and blocks, they run as they were.

    Args:
        model: the base.
        arguments: of `torch.compile`.
    """
    for module in towers(model):
        module.forward = _InTraining(module, arguments)


def towers(model: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that do not hold the head and have modules of their own; single layers are left out."""
    for child in model.children():
        holds_head = any(isinstance(module, HeadWrapper) for module in child.modules())
        if holds_head or isinstance(child, nn.ModuleList):
            if not isinstance(child, HeadWrapper):
                yield from towers(child)
        elif any(True for _ in child.children()):
            yield child


class _InTraining:
    """A module's forward, compiled in train mode."""

    def __init__(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        self.module, self.plain = module, module.forward
        self.compiled = torch.compile(self.plain, **arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.module.training:
            return self.plain(*args, **kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(value, 0)  # images or texts: the last batch is smaller, sessions have other classes
        return self.compiled(*args, **kwargs)
