"""The linear head behind a ViT's pooler.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from hf_cl.heads.linear import LinearHead


class PoolerHead(LinearHead):
    """`tanh(pooler(features))`, then a linear head: the embedding that `ViTModel` calls its pooler output.

    transformers' classification classes have no pooler and drop its weights when they load. Here it is the head's first layer, so that it
    is saved with the adapter, and every loading route gives the same embedding. `ASYNC_LORA` copies the base checkpoint's weights into it;
    until then it is the identity before tanh.

    Args: as `LinearHead`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = True,
        probability: Literal["softmax", "stablemax"] = "softmax",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, bias=bias, probability=probability, device=device, dtype=dtype)
        self.pooler = nn.Linear(in_features, in_features, device=device, dtype=dtype)
        nn.init.eye_(self.pooler.weight)
        nn.init.zeros_(self.pooler.bias)

    @torch.no_grad()
    def load_pooler(self, weights: Mapping[str, Tensor]) -> None:
        """Copy `weight` [D, D] and `bias` [D].

        Raises ValueError for a pooler of another width.
        """
        if weights["weight"].shape != self.pooler.weight.shape:
            raise ValueError(f"The pooler is {tuple(weights['weight'].shape)}; this head wants {tuple(self.pooler.weight.shape)}.")
        self.pooler.weight.copy_(weights["weight"])
        self.pooler.bias.copy_(weights["bias"])

    def embed(self, features: Tensor) -> Tensor:  # [B, D] -> [B, D]
        return self.pooler(features).tanh()

    def as_linear(self) -> nn.Linear | None:
        return None  # tanh lies between

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        return super().forward(self.embed(features))


def linear_head(
    in_features: int,
    num_classes: int,
    *,
    bias: bool = True,
    pooler: bool = False,
    probability: Literal["softmax", "stablemax"] = "softmax",
    age_scale: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LinearHead:
    """The head type `linear`: with `pooler`, behind a ViT's pooler.

    Raises ValueError where `bias` or `pooler` is no bool, for a pooler whose rows age, and as `LinearHead`.
    """
    if not isinstance(pooler, bool):
        raise ValueError(f"LinearHead: pooler must be true or false, got {pooler!r}.")
    if not pooler:
        return LinearHead(in_features, num_classes, bias=bias, probability=probability, age_scale=age_scale, device=device, dtype=dtype)
    if age_scale:
        raise ValueError("LinearHead: age_scale scales features, which a pooler's tanh does not let through; leave one of them out.")
    return PoolerHead(in_features, num_classes, bias=bias, probability=probability, device=device, dtype=dtype)
