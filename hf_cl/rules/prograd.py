"""Prompt-aligned gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters
from hf_cl.hints import nearest
from hf_cl.rules.passes import Losses, RandomState, add_gradients, put_gradients_aside, refuse_sharded, run_pass, total


class ProGrad(GradientRule):
    """Per tensor: where the gradient g points against the gradient r of a reference loss, that part of it is removed.

    `g_f = g - lam (g . u) u` where `g . u < 0`, u = r / |r|, else g. Zhu et al., "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023;
    their reference is the distance to the zero-shot predictions (`hf_cl.losses.ZeroShotKL`). Tensors without a reference gradient, or
    with a zero one, keep g.

    The reference is one of the phase's losses, kept out of the sum: g is the gradient of all the others. Two passes, with the same random
    numbers; the generators are left where one pass leaves them.

    Args:
        reference: name of the reference loss.
        lam: how much of the conflicting part is removed.

    Raises ValueError for lam < 0, and in `compute` for a reference that is not among the losses or is the only one, and under DeepSpeed
    or FSDP.
    """

    def __init__(self, reference: str = "zero_shot_kl", lam: float = 1.0) -> None:
        if not lam >= 0:
            raise ValueError(f"ProGrad: lam must not be negative, got {lam}.")
        self.reference, self.lam = reference, lam

    def record(self) -> dict[str, Any]:
        return {"rule": "prograd", "lam": self.lam, **({} if self.reference == "zero_shot_kl" else {"reference": self.reference})}

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
        losses = run_pass(closures, accelerator, model, self._reference_loss)
        end = RandomState(accelerator.device)
        references = put_gradients_aside(parameters)
        start.restore()
        try:
            run_pass(closures, accelerator, model, self._other_losses)
        finally:
            end.restore()
        for parameter, reference in references:
            if parameter.grad is not None:
                parameter.grad.sub_(self._conflict(parameter.grad, reference))
        add_gradients(before)
        return losses

    def _conflict(self, gradient: Tensor, reference: Tensor) -> Tensor:
        """What is taken from the gradient; NaN where the reference is not finite, so that fp16's scaler skips the step."""
        norm = torch.linalg.vector_norm(reference).clamp_min(torch.finfo(reference.dtype).tiny)
        along = (gradient * reference).sum() / norm
        return torch.where(along >= 0, 0.0, self.lam * along / norm) * reference

    def _reference_loss(self, losses: Losses) -> Tensor:
        if self.reference not in losses:
            raise ValueError(
                f"ProGrad: the phase has no loss {self.reference!r}; its losses are {', '.join(losses)}.{nearest(self.reference, losses)}"
            )
        return losses[self.reference]

    def _other_losses(self, losses: Losses) -> Tensor:
        others = {name: value for name, value in losses.items() if name != self.reference}
        if not others:
            raise ValueError(f"ProGrad: {self.reference!r} is the phase's only loss; it is kept out of the sum, so there must be others.")
        return total(others)
