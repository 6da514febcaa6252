"""Two-pass rules: the gradient here, the gradient at a perturbed point, and a mixture of both.

Shapes: T trainable tensors that have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters
from hf_cl.rules.passes import RandomState, add_gradients, put_gradients_aside, refuse_sharded, run_pass

EPSILON = 1e-12
"""Added to the norm, as in SAM's code: a zero gradient perturbs nothing and divides nothing by zero."""


class PerturbedRule(GradientRule):
    """`g_f = (1 - mix) g + mix g'` with g = grad L(w), g' = grad L(w + e), `e = factor(|g|) g`.

    Both passes see the same batch and the same random numbers (dropout masks); afterwards the generators stand where one pass leaves
    them. The norm is that of the whole step's gradient, over micro-batches and processes, and over all trainable tensors that have one;
    the others are neither moved nor counted. Parameters come back from a copy, to the bit, also when the second pass raises. A gradient
    that was in `p.grad` before stays added and has no part in g or g'. The returned losses are those of the first pass.

    Nothing waits for the device: an overflow under fp16 makes the second pass useless, not impossible, and leaves a gradient that is not
    finite, so that the scaler skips the step.

    Args:
        rho: radius of the perturbation, in parameter units.
        mix: weight of g'.
        adaptive: scale the perturbation by the parameters' size, e = factor(| |w| g |) w^2 g (ASAM, Kwon et al., ICML 2021).
        per_tensor: a norm per tensor instead of one over all.

    Raises ValueError for rho <= 0, and in `compute` under DeepSpeed or FSDP.
    """

    def __init__(self, rho: float, mix: float, *, adaptive: bool = False, per_tensor: bool = False) -> None:
        if not rho > 0:
            raise ValueError(f"{type(self).__name__}: rho must be positive, got {rho}.")
        self.rho, self.mix, self.adaptive, self.per_tensor = rho, mix, adaptive, per_tensor

    def settings(self) -> dict[str, Any]:
        """For `record`: the radius, and what no config has a field for where it is not the default."""
        return {"rho": self.rho, **({"adaptive": True} if self.adaptive else {}), **({"per_tensor": True} if self.per_tensor else {})}

    def factor(self, norm: Tensor) -> Tensor:
        """What the gradient is multiplied by to give the perturbation; `norm` is a scalar, or [T] with a norm per tensor."""
        return self.rho / (norm + EPSILON)

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        refuse_sharded(accelerator, self)
        parameters = [p for _, p in named_parameters]
        before = put_gradients_aside(parameters)
        start = RandomState(accelerator.device)
        losses = run_pass(closures, accelerator, model)
        end = RandomState(accelerator.device)
        aside = put_gradients_aside(parameters)
        moved: list[Tensor] = [p for p, _ in aside]
        gradients = [g for _, g in aside]
        originals = [p.detach().clone() for p in moved]
        try:
            with torch.no_grad():
                torch._foreach_add_(moved, self._perturbation(moved, gradients, _loss_scale(accelerator)))
            start.restore()
            run_pass(closures, accelerator, model)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, originals)  # w + e - e is not w in floating point
            end.restore()
        # in place, since p.grad may be a view of DDP's bucket; lerp gives g' exactly at mix = 1, and NaN there where g is not finite
        seconds = [p.grad for p in moved if p.grad is not None]
        torch._foreach_lerp_(gradients, seconds, self.mix)
        torch._foreach_copy_(seconds, gradients)
        add_gradients(before)
        return losses

    def _perturbation(self, parameters: list[Tensor], gradients: list[Tensor], scale: Tensor | float) -> list[Tensor]:
        weighted = gradients
        if self.adaptive:
            weighted = list(torch._foreach_mul(gradients, torch._foreach_abs(parameters)))
        dtype = reduce(torch.promote_types, [g.dtype for g in gradients], torch.float32)
        norm = torch.stack(torch._foreach_norm(weighted, 2, dtype)) / scale  # [T]
        if not self.per_tensor:
            norm = torch.linalg.vector_norm(norm)
        factor = self.factor(norm) / scale
        steps = torch._foreach_mul(gradients, list(factor.unbind())) if self.per_tensor else torch._foreach_mul(gradients, factor)
        return list(torch._foreach_mul(steps, torch._foreach_mul(parameters, parameters)) if self.adaptive else steps)


def _loss_scale(accelerator: Any) -> Tensor | float:
    """What gradients are multiplied by under fp16. As a tensor: `get_scale` would wait for the device."""
    if accelerator.scaler is None:
        return 1.0
    return accelerator.scaler.scale(torch.ones((), device=accelerator.device))
