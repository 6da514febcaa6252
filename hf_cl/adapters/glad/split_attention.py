"""open_clip's attention with q, k and v apart, so that each gets a LoRA of its own.

`nn.MultiheadAttention` keeps the three projections in one tensor. peft's LoRA for it has ONE matrix A for all three and adapts `out_proj`
too, which is another model than CLIP-LoRA's (other parameter count, shared A).

Shapes: B batch, N tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """Self-attention with the weights of a `nn.MultiheadAttention`, projections as separate linear layers."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        width = packed.embed_dim
        self.num_heads, self.dropout, self.batch_first = packed.num_heads, packed.dropout, packed.batch_first
        biases = [None] * 3 if packed.in_proj_bias is None else packed.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip("qkv", packed.in_proj_weight.detach().chunk(3), biases, strict=True):
            linear = nn.Linear(width, width, bias=bias is not None, device="meta")
            linear.weight = nn.Parameter(weight.clone(), requires_grad=packed.in_proj_weight.requires_grad)  # [D, D]
            if bias is not None:
                linear.bias = nn.Parameter(bias.clone(), requires_grad=packed.in_proj_weight.requires_grad)  # [D]
            self.add_module(f"{name}_proj", linear)
        self.out_proj = packed.out_proj
        self.train(packed.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """`query`, `key`, `value` [B, N, D], or [N, B, D] as `batch_first` says; `attn_mask` additive, [N, N]."""
        inputs = (query, key, value) if self.batch_first else tuple(t.transpose(0, 1) for t in (query, key, value))  # [B, N, D]
        projections: tuple[Any, ...] = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p, x in zip(projections, inputs, strict=True)
        )  # [B, H, N, d]
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)  # [B, H, N, d]
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # [B, N, D]
        return (out if self.batch_first else out.transpose(0, 1)), None

    def packed(self) -> nn.MultiheadAttention:
        """The `nn.MultiheadAttention` again, with the present weights."""
        projections: list[Any] = [self.q_proj, self.k_proj, self.v_proj]
        width, bias = projections[0].in_features, projections[0].bias is not None
        packed = nn.MultiheadAttention(width, self.num_heads, self.dropout, bias=bias, batch_first=self.batch_first, device="meta")
        trains = projections[0].weight.requires_grad
        packed.in_proj_weight = nn.Parameter(torch.cat([p.weight.detach() for p in projections]), requires_grad=trains)  # [3D, D]
        if bias:
            packed.in_proj_bias = nn.Parameter(torch.cat([p.bias.detach() for p in projections]), requires_grad=trains)  # [3D]
        packed.out_proj = self.out_proj  # pyright: ignore[reportAttributeAccessIssue]
        return packed.train(self.training)


def split_attention(model: nn.Module) -> None:
    """Replace every self-attention of an open_clip model by its split form. Idempotent.

    Raises ValueError for attention blocks of another kind.
    """
    for name, module in list(model.named_modules()):
        if name.endswith(".attn") and name.split(".")[-3] == "resblocks":
            if type(module) is nn.MultiheadAttention and module.in_proj_weight is not None:
                model.set_submodule(name, SplitAttention(module))
            elif not isinstance(module, SplitAttention):
                raise ValueError(f"GLAD splits open_clip's nn.MultiheadAttention into q, k and v; {name!r} is a {type(module).__name__}.")


def pack_attention(model: nn.Module) -> None:
    """Inverse of `split_attention`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SplitAttention):
            model.set_submodule(name, module.packed())
