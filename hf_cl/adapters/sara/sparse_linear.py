"""A linear layer whose weight is W with some entries moved, without a kept copy of W.

Shapes: B samples (any number of leading dimensions), I inputs, O outputs, n moved entries. Positions count the entries of W [O, I] row by
row.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SPARSE = 1 / 8
"""Up to this share of the entries, products of the wanted entries alone are faster on a CPU than a dense product and a gather."""

SAMPLES = 256
"""Samples that such a product takes at a time: it copies its factors, and copies of so few rows stay small."""


class Block(NamedTuple):
    """Rows `first_row` to `end_row` of W, and the part `start` to `end` of the positions that lies in them."""

    start: int
    end: int
    first_row: int
    end_row: int


def cut(indices: Tensor, rows: int, width: int, block_rows: int) -> list[Block]:
    """The sorted `indices` [n] by blocks of `block_rows` of the `rows` rows; blocks without positions are left out."""
    starts = [*range(0, rows, block_rows), rows]
    edges = torch.tensor([row * width for row in starts], dtype=torch.long, device=indices.device)
    bounds = torch.searchsorted(indices.long(), edges).tolist()
    blocks = [Block(*block) for block in zip(bounds[:-1], bounds[1:], starts[:-1], starts[1:], strict=True)]
    return [block for block in blocks if block.end > block.start]


def moved(tensor: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """`tensor` with `delta` [n] added at the flat positions `indices` [n]; a new tensor, differentiable in `delta`.

    Added in float32 or wider: a bfloat16 sum would lose small differences, a float32 one would round a float64 base. Positions are
    distinct, so the entries are written, not accumulated: that is deterministic on every device.
    """
    flat, wide = tensor.flatten(), torch.promote_types(tensor.dtype, torch.float32)
    entries = flat.index_select(0, indices).to(wide) + delta.to(wide)  # [n]
    return flat.index_copy(0, indices.long(), entries.to(tensor.dtype)).view_as(tensor)


class SparseLinear(torch.autograd.Function):
    """y = x (W + D)^T + b, where D holds `scaling * values` at `indices` and zeros elsewhere.

    Kept for the backward pass are the input and references to W, positions and values, as LoRA keeps them. W + D is built again there, and
    the gradient of W exists for one block of rows at a time, or not at all: the paper's "unstructural back-propagation", g_values =
    (g_y^T x) at the positions. In general that is a dense product and a gather. On a CPU, in float32 or wider and up to the density
    `SPARSE`, only the wanted entries are computed. Entries that no longer train get the gradient 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [B, I]
        weight: Tensor,  # [O, I]
        bias: Tensor | None,  # [O]
        indices: Tensor,  # [n]
        active: Tensor,  # [n]
        values: Tensor,  # [n]
        scaling: float,
        blocks: list[Block] | None,
    ) -> Tensor:  # [B, O]
        # autocast is off in the backward pass, so its dtype is decided and kept here
        device = x.device.type
        ctx.dtype, ctx.x_dtype = weight.dtype, x.dtype
        if torch.is_autocast_enabled(device):
            ctx.dtype = torch.get_autocast_dtype(device)
            x = x.to(ctx.dtype)
        ctx.scaling, ctx.blocks = scaling, blocks
        # the input is needed for the gradient of the values alone: where the adapter rests, its memory is spared as for a frozen weight
        ctx.save_for_backward(x if ctx.needs_input_grad[5] else None, weight, indices, active, values)
        return F.linear(x, moved(weight, indices, values * scaling).to(ctx.dtype), None if bias is None else bias.to(ctx.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, indices, active, values = ctx.saved_tensors
        g = g.to(ctx.dtype)
        g_x = g_bias = g_values = None
        if ctx.needs_input_grad[0]:
            g_x = (g @ moved(weight, indices, values * ctx.scaling).to(ctx.dtype)).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            g_bias = g.reshape(-1, g.shape[-1]).sum(0)  # [O]
        if ctx.needs_input_grad[5]:
            g_values = gathered(g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1]), indices, values, ctx.blocks)
            g_values = g_values * ctx.scaling * active
        return g_x, None, g_bias, None, None, g_values, None, None


def gathered(g: Tensor, x: Tensor, indices: Tensor, values: Tensor, blocks: list[Block] | None) -> Tensor:
    """[n] the entries of g^T x at the positions; g [B, O], x [B, I]."""
    if blocks is not None:
        return _gathered_by_blocks(g, x, indices, values, blocks)
    sparse = len(indices) <= SPARSE * g.shape[1] * x.shape[1] and g.device.type == "cpu" and g.dtype in (torch.float32, torch.float64)
    if sparse and not torch.compiler.is_compiling():
        return _sampled(g, x, indices).to(values.dtype)
    return (g.T @ x).flatten().index_select(0, indices).to(values.dtype)


def _gathered_by_blocks(g: Tensor, x: Tensor, indices: Tensor, values: Tensor, blocks: list[Block]) -> Tensor:
    gathered = torch.empty_like(values)
    for block in blocks:
        dense = g[:, block.first_row : block.end_row].T @ x  # [rows, I]
        here = indices[block.start : block.end] - block.first_row * x.shape[1]
        gathered[block.start : block.end] = dense.flatten().index_select(0, here).to(values.dtype)
    return gathered


def _sampled(g: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    _meet_csr_tensors()
    rows, width = g.shape[1], x.shape[1]
    starts = torch.searchsorted(indices, torch.arange(rows + 1, dtype=torch.int32) * width, out_int32=True)  # [O + 1]
    total = torch.sparse_csr_tensor(starts, indices.remainder(width), g.new_zeros(len(indices)), (rows, width))
    for g_part, x_part in zip(g.split(SAMPLES), x.split(SAMPLES), strict=True):
        torch.sparse.sampled_addmm(total, g_part.T, x_part, out=total)
    return total.values()


@lru_cache(maxsize=1)
def _meet_csr_tensors() -> None:
    """torch says once per process that its CSR tensors are in beta. A user cannot act on that; what is used of them here is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1))
