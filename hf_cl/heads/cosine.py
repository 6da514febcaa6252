"""The cosine head.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head
from hf_cl.heads.rows import append_rows


class CosineHead(Head):
    """`scale * cos(features, row)`: old and new classes compete by angle alone, so rows trained more recently do not win by their length.

    The classifier of LUCIR (Hou et al., "Learning a Unified Classifier Incrementally via Rebalancing", CVPR 2019, "cosine normalization"),
    with its learnable scale. A phase that wants the scale to stand still leaves `head.scale` out of `Phase.trainable`.

    Args:
        in_features: D, width of the features.
        num_classes: C, rows to begin with.
        scale: where the scale begins.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError where `scale` is not a positive number.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(f"{type(self).__name__}: scale must be a positive number, got {scale!r}.")
        self.in_features, self.num_classes = in_features, 0
        self.weight = nn.Parameter(torch.empty(0, in_features, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.full((), float(scale), device=device, dtype=dtype))
        self._append(num_classes)

    def grow(self, class_names: Sequence[str]) -> None:
        self._append(len(class_names))

    def _append(self, count: int) -> None:
        self.weight = append_rows(self.weight, (count, self.in_features), self.in_features)
        self.num_classes += count

    def class_vectors(self) -> Tensor:
        """[C, D] the vectors that features are compared with, of any length."""
        return self.weight

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        return self.compare(features, self.class_vectors())

    def compare(self, features: Tensor, vectors: Tensor) -> Tensor:  # [B, D], [C, D] -> [B, C]
        """Logits for given class vectors."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(vectors, dim=-1))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}"
