"""A weight that an adapter changes, without a kept copy of the changed one.

Shapes: B samples (any number of leading dimensions), I inputs, O outputs of a weight [O, I]; a convolution's is [O, C, H, W].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Change:
    """How an adapter's tensors change a weight. Without state of its own: what it computes follows from its arguments."""

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        """The changed weight, in float32 or wider: a half-precision sum would lose small changes."""
        raise NotImplementedError(f"{type(self).__name__} does not implement effective")

    def gradients(self, g: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """For each of the tensors its gradient, None where it needs none; g is the gradient of the changed weight.

        By differentiating `effective`, built once more; a change that knows a shorter way overrides it.
        """
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
            changed = self.effective(weight, *leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(changed, wanted, g.to(changed.dtype)))
        return tuple(next(found) if leaf.requires_grad else None for leaf in leaves)

    def gradients_of_product(self, g: Tensor, x: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """The same where the weight stood in `x @ W.T` with x [B, I] and the product's gradient g [B, O]: a dense block, freed at once."""
        return self.gradients(g.T @ x, weight, *tensors)


class ChangedLinear(torch.autograd.Function):
    """y = x W'^T + b with the changed weight W'.

    Kept for the backward pass are the input and references to the weight and the adapter's tensors, as LoRA keeps them. W' is built again
    there. Where the adapter rests, the input is not kept either.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, change: Change, *tensors: Tensor) -> Tensor:  # [B, I] -> [B, O]
        # autocast is off in the backward pass, so its dtype is decided and kept here
        device = x.device.type
        ctx.dtype, ctx.x_dtype, ctx.change = weight.dtype, x.dtype, change
        if torch.is_autocast_enabled(device):
            ctx.dtype = torch.get_autocast_dtype(device)
            x = x.to(ctx.dtype)
        ctx.save_for_backward(x if any(ctx.needs_input_grad[4:]) else None, weight, *tensors)
        return F.linear(x, change.effective(weight, *tensors).to(ctx.dtype), None if bias is None else bias.to(ctx.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, *tensors = ctx.saved_tensors
        g = g.to(ctx.dtype)
        flat = g.reshape(-1, g.shape[-1])  # [B, O]
        g_x = g_bias = None
        found: tuple[Tensor | None, ...] = (None,) * len(tensors)
        if ctx.needs_input_grad[0]:
            g_x = (g @ ctx.change.effective(weight, *tensors).to(ctx.dtype)).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            g_bias = flat.sum(0)  # [O]
        if x is not None:
            found = ctx.change.gradients_of_product(flat, x.reshape(-1, x.shape[-1]), weight, *tensors)
        return g_x, None, g_bias, None, *found


class ChangedWeight(torch.autograd.Function):
    """The changed weight itself, in float32 or wider: for convolutions, and where several adapters add up."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, change: Change, *tensors: Tensor) -> Tensor:
        ctx.change = change
        ctx.save_for_backward(weight, *tensors)
        return change.effective(weight, *tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, *tensors = ctx.saved_tensors
        return None, None, *ctx.change.gradients(g, weight, *tensors)


def widened(tensor: Tensor) -> Tensor:
    """In float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
