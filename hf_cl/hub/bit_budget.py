"""Which tensor gets how many bits where a file may have so many bytes.

Shapes: T tensors, Q choices of bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def allocate(sizes: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float) -> list[int]:
    """A choice for each tensor with the least sum of costs that fits the budget.

    Costs are taken to add up. Shvetsov et al., "QuantNAS for super resolution" (arXiv 2208.14839), search the same choice by gradient, with
    noise in the place of rounding; with tensors as small as an adapter's, each cost is measured, and the choice is a knapsack with one
    item of each group, solved exactly.

    Args:
        sizes: [T, Q] what a choice takes of the budget.
        costs: [T, Q] what it costs.
        budget: in the units of `sizes`.

    Returns T positions in the choices. Raises ValueError where the least choices do not fit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415 (half a second)

    taken, cost = np.asarray(sizes, dtype=float), np.asarray(costs, dtype=float)  # [T, Q]
    least = taken.min(1).sum()
    if least > budget:
        raise ValueError(f"The budget of {budget:.0f} is below the {least:.0f} that the fewest bits take.")
    count, choices = taken.shape
    one_each = np.kron(np.eye(count), np.ones(choices))  # [T, T Q]
    limits = [LinearConstraint(one_each, 1, 1), LinearConstraint(taken.reshape(1, -1), -np.inf, budget)]
    scale = cost.max() or 1.0
    found = milp(
        cost.ravel() / scale, constraints=limits, integrality=np.ones(count * choices), bounds=Bounds(0, 1), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        raise RuntimeError(f"No choice of bits was found: {found.message}")
    return found.x.reshape(count, choices).argmax(1).tolist()
