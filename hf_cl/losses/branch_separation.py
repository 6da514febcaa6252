"""Old and new classes steer the scan by different directions.

Shapes: R width of a fact, L places, M images of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context
from hf_cl.losses.branch_facts import OfBranches
from hf_cl.losses.global_batch import as_own_share


class BranchSeparation(OfBranches):
    """Half the absolute cosine between the mean over session 0's images and that over others, of step and state maps of the scan.

    Mamba-FSCIL's class-sensitive separation. `main` weighs it in the main branch, where that trains, and `new` in the other.
    """

    name = "branch_separation"
    needs = frozenset({"index", "scan_dt", "scan_b", "scan_c", "scan_dt_new", "scan_b_new", "scan_c_new"})

    def __init__(self, main: float = 0.0, new: float = 1e-3, weight: float | Callable[[int], float] = 1.0) -> None:
        super().__init__()
        self.main, self.new, self.weight = main, new, weight

    def __call__(self, ctx: Context) -> Tensor:
        branches = {"_new": self.new, **({"": self.main} if self.main else {})}
        weights = {f"scan_{name}{branch}": weight for branch, weight in branches.items() for name in ("dt", "b", "c")}
        rows, base, novel, valid = self.both_kinds(ctx, *(ctx.extras[name].mean(2) for name in weights))
        likenesses = [weight * likeness(row, base, novel) for row, weight in zip(rows, weights.values(), strict=True)]
        return as_own_share(torch.stack(likenesses).sum(), len(ctx.labels), valid)


def likeness(rows: Tensor, base: Tensor, novel: Tensor) -> Tensor:
    """Of a fact's means over places [M, R]: |cos| / 2 of its means over the two kinds of image; 0 where one kind has none."""
    sums = [(rows * kind[:, None]).sum(0) for kind in (base, novel)]  # [R] each
    return F.cosine_similarity(*sums, dim=0).abs() / 2
