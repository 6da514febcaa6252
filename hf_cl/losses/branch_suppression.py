"""A branch for new classes that stays quiet on those of session 0.

Shapes: d channels, L places, M images of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_cl.contracts import Context
from hf_cl.losses.branch_facts import OfBranches
from hf_cl.losses.global_batch import as_own_share


class BranchSuppression(OfBranches):
    """`base ||g_base|| / numel(g_base) - novel ||g_novel|| / numel(g_novel)`, g the new branch's gate before SiLU, summed over the orders.

    Mamba-FSCIL's suppression as its code runs it: on the gate, while its text speaks of the branch's output. In the flipped orders that
    code flips the gate along channels instead of places; here every order's gate is brought to its places.

    Args:
        base, novel: weights of the two.
        weight: of their sum.
    """

    name = "branch_suppression"
    needs = frozenset({"index", "scan_gate"})

    def __init__(self, base: float = 100.0, novel: float = 1e-5, weight: float | Callable[[int], float] = 1.0) -> None:
        super().__init__()
        self.base, self.novel, self.weight = base, novel, weight

    def __call__(self, ctx: Context) -> Tensor:
        gate = ctx.extras["scan_gate"]  # [B, d, L]
        (squares,), base, novel, valid = self.both_kinds(ctx, gate.square().flatten(1).sum(1))
        entries = gate[0].numel()
        value = self.base * mean_norm(squares, entries, base) - self.novel * mean_norm(squares, entries, novel)
        return as_own_share(value, len(gate), valid)


def mean_norm(squares: Tensor, entries: int, chosen: Tensor) -> Tensor:
    """Frobenius norm of the chosen images' gates over their number of entries; 0, and without gradient, where there are none.

    Args:
        squares: [M] of each image's gate, summed over its `entries`.
        chosen: [M] bool.
    """
    total = (squares * chosen).sum()
    some = total > 0
    return torch.where(some, total, 1.0).sqrt() * some / (chosen.sum() * entries).clamp_min(1)
