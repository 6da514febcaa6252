"""A matrix as the product of two thin ones.

Shapes: O, I rows and columns of a weight, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MIN_OUT_FEATURES = 10
"""Linears with fewer outputs are left alone: heads, mostly."""


def rank_of(inputs: int, outputs: int, ratio: float) -> int:
    """The rank at which two factors have 1/ratio of the entries of the whole: floor(I O / (ratio (I + O)))."""
    return int(inputs * outputs / (ratio * (inputs + outputs)))


def checked_rank(name: str, inputs: int, outputs: int, ratio: float) -> int:
    """The same. Raises ValueError, naming the module, where the ratio leaves it no rank."""
    rank = rank_of(inputs, outputs, ratio)
    if rank < 1:
        raise ValueError(f"ratio {ratio} leaves {name!r} no rank at all; at most {inputs * outputs / (inputs + outputs):.1f} does.")
    return rank


@torch.no_grad()
def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(down [r, I], up [O, r]) whose product is the best of its rank: the truncated singular value decomposition, in float32 or wider.

    Each factor has the square roots of the singular values.
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    u, s, v = torch.linalg.svd(wide, full_matrices=False)  # [O, k], [k], [k, I]
    root = s[:rank].sqrt()
    down, up = root[:, None] * v[:rank], u[:, :rank] * root  # [r, I], [O, r]
    return down.contiguous(), up.contiguous()  # products round by the order in memory, and files have but this one


class LowRankLinear(nn.Linear):
    """A Linear whose weight is `up` [O, r] times `down` [r, I], held as two Linears: `down` without a bias, `up` with it.

    To what stands around Linears it is one, so LoRA adds its change to the pair. `weight` is the product, made when it is asked for:
    writing into it changes nothing, which is why adapters do not merge into it.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True, **kwargs: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.down = nn.Linear(in_features, rank, bias=False, **kwargs)
        self.up = nn.Linear(rank, out_features, bias=bias, **kwargs)

    @classmethod
    def of(cls, linear: nn.Linear, rank: int) -> LowRankLinear:
        """The best pair of a rank for a Linear, in its dtype; its bias as it is."""
        weight, has_bias = linear.weight, linear.bias is not None
        made = cls(linear.in_features, linear.out_features, rank, has_bias, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            for part, values in zip((made.down, made.up), factors(weight, rank), strict=True):
                part.weight.copy_(values)
            if has_bias:
                made.up.bias.copy_(linear.bias)
        return made

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[O, I]"""
        return self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[O]"""
        return self.up.bias

    def forward(self, input: Tensor) -> Tensor:
        return self.up(self.down(input))  # called, since adapters on the weights stand around the halves

    def dense(self) -> nn.Linear:
        """The pair multiplied out."""
        weight = self.weight
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def is_low_rank(model: nn.Module) -> bool:
    """Whether a base has pairs in the place of Linears."""
    return any(isinstance(module, LowRankLinear) for module in model.modules())


def ranks(model: nn.Module) -> dict[str, int]:
    """Module name -> rank of its pair."""
    return {name: module.rank for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
