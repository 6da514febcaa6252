"""The plain gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters
from hf_cl.rules.passes import run_pass


class Plain(GradientRule):
    """The gradient of the step's loss, nothing else: one forward and backward per micro-batch, no wait for the device."""

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        return run_pass(closures, accelerator, model)
