"""What stands between the features and a head of fixed targets.

Shapes: B batch, D feature width, E embedding width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

ProjectorKind = Literal["none", "linear", "mlp"]
SLOPE = 0.1
"""Of the leaky ReLU where its input is negative."""


def projector_of(kind: ProjectorKind, in_features: int, out_dim: int, *, device: Any = None, dtype: torch.dtype | None = None) -> nn.Module:
    """[B, D] -> [B, E]: "linear", or "mlp" (D -> 2 D -> E with a LayerNorm and a leaky ReLU between, as NC-FSCIL's and Mamba-FSCIL's neck).

    Raises ValueError for another kind, and for "none" where E is not D.
    """
    factory: Any = {"device": device, "dtype": dtype}
    if kind == "linear":
        return nn.Linear(in_features, out_dim, bias=False, **factory)
    if kind == "mlp":
        hidden = 2 * in_features
        return nn.Sequential(
            nn.Linear(in_features, hidden, **factory),
            nn.LayerNorm(hidden, **factory),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, out_dim, bias=False, **factory),
        )
    if kind != "none":
        raise ValueError(f"projector must be none, linear or mlp, got {kind!r}.")
    if out_dim != in_features:
        raise ValueError(f"Without a projector the features are the embedding, of width {in_features}; leave out_dim {out_dim} out.")
    return nn.Identity()
