"""A branch for new classes that stays quiet on those of session 0.

Shapes: B batch, d channels, L places.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_cl.contracts import Context
from hf_cl.losses.branch_facts import OfBranches


class BranchSuppression(OfBranches):
    """`base ||g_base|| / numel(g_base) - novel ||g_novel|| / numel(g_novel)`, g the new branch's gate before SiLU, summed over the orders.

    Mamba-FSCIL's suppression as its code runs it: on the gate, while its text speaks of the branch's output. In the flipped orders that
    code flips the gate along channels instead of places; here every order's gate is brought to its places.

    Args:
        base, novel: weights of the two.
        weight: of their sum.
    """

    name = "branch_suppression"
    needs = frozenset({"scan_gate"})

    def __init__(self, base: float = 100.0, novel: float = 1e-5, weight: float | Callable[[int], float] = 1.0) -> None:
        super().__init__()
        self.base, self.novel, self.weight = base, novel, weight

    def __call__(self, ctx: Context) -> Tensor:
        gate, is_base = ctx.extras["scan_gate"], self.is_base(ctx)
        return self.base * mean_norm(gate, is_base) - self.novel * mean_norm(gate, ~is_base)


def mean_norm(gate: Tensor, chosen: Tensor) -> Tensor:
    """Frobenius norm of the chosen images' gates over their number of entries; 0, and without gradient, where there are none."""
    squares = (gate.square().flatten(1).sum(1) * chosen).sum()
    some = squares > 0
    entries = (chosen.sum() * gate[0].numel()).clamp_min(1)
    return torch.where(some, squares, 1.0).sqrt() * some / entries
