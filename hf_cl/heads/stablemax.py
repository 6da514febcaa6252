"""A softmax with linear instead of exponential growth."""

from __future__ import annotations

import torch
from torch import Tensor


def stable_growth(logits: Tensor) -> Tensor:
    """s(x) = x + 1 for x >= 0, 1 / (1 - x) below: positive, increasing, with value and slope 1 at 0.

    Prieto, Barsbey, Mediano, Birdal: "Grokking at the Edge of Numerical Stability" (arXiv 2501.04697). The branch that is not taken is kept
    away from its pole, so that the gradient is a number everywhere.
    """
    below = torch.where(logits < 0, logits, 0.0)
    return torch.where(logits < 0, 1 / (1 - below), logits + 1)


def stablemax(logits: Tensor) -> Tensor:
    """[B, C] -> [B, C]: `s(z_c) / sum_k s(z_k)`; the largest stays the largest."""
    grown = stable_growth(logits)
    return grown / grown.sum(-1, keepdim=True)
