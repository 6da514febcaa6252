"""What stands between patch tokens and class vectors.

Shapes: D token width, d width of the comparison, h hidden width; [..., D] any number of tokens.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ProjectionKind = Literal["linear", "ffn", "glu"]


class TokenProjection(nn.Module):
    """[..., D] -> [..., d]: "linear" R h, "ffn" W2 gelu(W1 h) or "glu" W2 (W1 h * silu(Wg h)), these two with R h added. No biases.

    Clavié et al., "Simple Projection Variants Improve ColBERT Performance", arXiv 2510.12327: after a projection, the best of all tokens
    alone gets a gradient, and residual, widened or gated blocks spread it further than one matrix does. R begins orthogonal and, beside it,
    W2 at zero, so that training begins at the linear projection.

    Args:
        in_features, out_dim: D, d.
        kind: of the three.
        upscale: h over D.
        residual: whether R h is added to a block; a block without it begins with random weights.
    """

    def __init__(
        self,
        in_features: int,
        out_dim: int,
        kind: ProjectionKind = "ffn",
        *,
        upscale: int = 2,
        residual: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: Any = {"bias": False, "device": device, "dtype": dtype}
        hidden = upscale * in_features
        self.base = nn.Linear(in_features, out_dim, **factory) if kind == "linear" or residual else None
        self.up = nn.Linear(in_features, hidden, **factory) if kind != "linear" else None
        self.gate = nn.Linear(in_features, hidden, **factory) if kind == "glu" else None
        self.down = nn.Linear(hidden, out_dim, **factory) if kind != "linear" else None
        if self.base is not None:
            nn.init.orthogonal_(self.base.weight)
            if self.down is not None:
                nn.init.zeros_(self.down.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.up is None or self.down is None:
            assert self.base is not None
            return self.base(tokens)
        hidden = self.up(tokens)
        hidden = F.gelu(hidden) if self.gate is None else hidden * F.silu(self.gate(tokens))
        block = self.down(hidden)
        return block if self.base is None else block + self.base(tokens)
