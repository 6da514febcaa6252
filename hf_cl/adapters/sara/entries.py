"""The trained entries of one tensor: what an adapter of SARA has there, and where its layer keeps it.

Shapes: n trained entries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class PartNames(NamedTuple):
    """Attributes of a layer that hold the parts of its entries, by adapter."""

    values: str
    indices: str
    active: str


class Entries(NamedTuple):
    """One adapter's entries of one of a module's tensors."""

    name: str
    """`weight` or `bias`."""
    base: Tensor
    indices: Tensor  # [n] int32, flat positions in `base`, sorted and distinct
    active: Tensor  # [n] bool, whether the entry still trains
    values: nn.Parameter  # [n] what is added to the base's entry, before scaling

    def base_values(self) -> Tensor:
        """[n] the base's entries, in float32 or wider."""
        found = self.base.detach().flatten().index_select(0, self.indices)
        return found.to(torch.promote_types(found.dtype, torch.float32))
