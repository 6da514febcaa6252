"""Fixed maps of features into a space where a linear classifier sees more.

Shapes: B batch, D feature width, M map width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MapKind = Literal["none", "rff", "relu"]


class FeatureMap(nn.Module):
    """Rows are centred and scaled as session 0's are, z = (x - g) / q, and mapped.

    "rff": sqrt(2 / M) cos(W z + b), W ~ N(0, 2 gamma), b ~ U(0, 2 pi), whose inner products are those of the kernel exp(-gamma d^2) (Rahimi
    and Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007). "relu": max(W z, 0), W ~ N(0, 1) (RanPAC: McDonnell et al.,
    NeurIPS 2023). "none": z itself. The draws are made once on the CPU and saved, since generators may change between versions of torch.

    Args:
        in_features: D.
        kind: "none", "rff" or "relu".
        map_dim: M.
        gamma: of "rff"; for rows of mean squared length 1, which z has.
        seed: of the draws.
        normalize: rows have length 1 before anything else.
    """

    center: Tensor  # [D]
    scale: Tensor  # []
    weight: Tensor  # [M, D]
    phase: Tensor  # [M]

    def __init__(
        self,
        in_features: int,
        kind: MapKind,
        map_dim: int,
        *,
        gamma: float = 0.1,
        seed: int = 0,
        normalize: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.normalize = kind, normalize
        self.out_features = in_features if kind == "none" else map_dim
        self.register_buffer("center", torch.zeros(in_features, device=device, dtype=dtype))
        self.register_buffer("scale", torch.ones((), device=device, dtype=dtype))
        if kind == "none":
            return
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(map_dim, in_features, generator=generator, device="cpu")
        if kind == "rff":
            weight *= math.sqrt(2 * gamma)
            phase = torch.rand(map_dim, generator=generator, device="cpu") * (2 * math.pi)
            self.register_buffer("phase", phase.to(device=device, dtype=dtype))
        self.register_buffer("weight", weight.to(device=device, dtype=dtype))

    def begin(self, features: Tensor) -> None:
        """Take centre and scale from the rows of session 0 [n, D].

        Raises ValueError where every row is the same, or, with `normalize`, is zero.
        """
        rows = self._normalized(features.cpu().double())
        center = rows.mean(0)
        scale = (rows - center).square().sum(1).mean().sqrt()
        if not scale > 0:
            raise ValueError("All features of session 0 are equal; no feature map can tell images apart.")
        self.center.copy_(center)
        self.scale.copy_(scale)

    def _normalized(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.normalize else features

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, M]
        """Where the features are and in their dtype: float64 on the CPU for fits, the map's own for predictions."""
        z = (self._normalized(features) - self.center.to(features)) / self.scale.to(features)  # [B, D]
        if self.kind == "none":
            return z
        projected = z @ self.weight.to(features).T  # [B, M]
        if self.kind == "relu":
            return projected.relu()
        return math.sqrt(2 / self.out_features) * torch.cos(projected + self.phase.to(features))
