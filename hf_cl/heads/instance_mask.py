"""The linear head of MVP, whose logits each image masks by its entry of the pool.

Shapes: B batch, C classes, D feature width, M entries of the pool, k entries of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.heads.linear import LinearHead


class InstanceMaskHead(LinearHead):
    """`(features @ weight.T + bias) * 2 sigmoid(mask[chosen])`: an entry of the pool says how much each class is believed.

    Moon et al., ICCV 2023 (MVP). `chosen` is what a PROMPT_POOL adapter of the producer mvp hands out in the same forward; without it (on
    another adapter) this is the linear head. Of several entries of an image the mean counts. The published mask has a row per entry; here
    it has one per class, as all rows that a head appends.

    Args:
        in_features, num_classes, bias, device, dtype: as `LinearHead`.
        pool_size: M, entries of the adapter's pool.

    Raises ValueError for a `pool_size` below 1, and what `LinearHead` raises.
    """

    reads_given = frozenset({"chosen"})

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        pool_size: int = 10,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
            raise ValueError(f"InstanceMaskHead: pool_size must be a whole number of at least 1, got {pool_size!r}.")
        super().__init__(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.mask = nn.Parameter(torch.full((num_classes, pool_size), -1.0, device=device, dtype=dtype))  # [C, M]

    @property
    def own_temperature(self) -> float | None:
        """A temperature is found on features, which do not say what an image chose."""
        return 1.0

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        new = self.mask.new_full((len(class_names), self.mask.shape[1]), -1.0)
        self.mask = nn.Parameter(torch.cat([self.mask.detach(), new]), requires_grad=self.mask.requires_grad)

    def believed(self, chosen: Tensor) -> Tensor:  # [B, k] -> [B, C]
        """By what the logits of images with these entries are multiplied."""
        return 2 * F.embedding(chosen, self.mask.T).mean(dim=1).sigmoid()

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        logits = super().forward(features)
        chosen = self.given.get("chosen")
        return logits if chosen is None else logits * self.believed(chosen).to(logits.dtype)

    def as_linear(self) -> nn.Linear | None:
        return None
