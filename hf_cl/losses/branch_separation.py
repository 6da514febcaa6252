"""Old and new classes steer the scan by different directions.

Shapes: B batch, R width of a fact, L places.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context
from hf_cl.losses.branch_facts import OfBranches


class BranchSeparation(OfBranches):
    """Half the absolute cosine between the mean over session 0's images and that over others, of step and state maps of the scan.

    Mamba-FSCIL's class-sensitive separation. `main` weighs it in the main branch, where that trains, and `new` in the other.
    """

    name = "branch_separation"
    needs = frozenset({"scan_dt", "scan_b", "scan_c", "scan_dt_new", "scan_b_new", "scan_c_new"})

    def __init__(self, main: float = 0.0, new: float = 1e-3, weight: float | Callable[[int], float] = 1.0) -> None:
        super().__init__()
        self.main, self.new, self.weight = main, new, weight

    def __call__(self, ctx: Context) -> Tensor:
        is_base, facts = self.is_base(ctx), ctx.extras
        total = self.new * sum(likeness(facts[f"scan_{name}_new"], is_base) for name in ("dt", "b", "c"))
        if self.main:
            total = total + self.main * sum(likeness(facts[f"scan_{name}"], is_base) for name in ("dt", "b", "c"))
        assert isinstance(total, Tensor)
        return total


def likeness(fact: Tensor, is_base: Tensor) -> Tensor:
    """Of [B, R, L]: |cos| / 2 of the two means over images and places; 0 where one kind has no image."""
    rows, share = fact.mean(2), is_base[:, None].to(fact.dtype)  # [B, R]
    return F.cosine_similarity((rows * share).sum(0), (rows * (1 - share)).sum(0), dim=0).abs() / 2
