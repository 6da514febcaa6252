"""The gradient without its part along the weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters
from hf_cl.rules.around import AroundRule
from hf_cl.rules.plain import Plain
from hf_cl.scopes import scoped

_TINY = 1e-30


class PerpGrad(AroundRule):
    """`g_perp = g - (w.g)/(w.w) w`, at the length of g: scaling the weights can no longer lower the loss.

    Prieto, Barsbey, Mediano, Birdal: "Grokking at the Edge of Numerical Stability" (arXiv 2501.04697; code: LucasPrietoAl/
    grokking-at-the-edge-of-numerical-stability, `orthograd.py`). Once per step, on unscaled gradients, before clipping. Differences to the
    code: where next to nothing is left of a gradient, what is left is rounding noise and is not blown up to the old length; tensors of one
    element are never touched, and those of one dimension only where `scope` is an expression. With momentum or Adam the update is not
    orthogonal, only the gradient is.

    Args:
        scope: which tensors, as `hf_cl.scopes.scoped` reads it. On all tensors of a LoRA it raised forgetting in our trial.
        rescale: to the length of g.
        min_ratio: below this ratio of lengths a gradient is not rescaled.
        per: "tensor", "row" (each row of a matrix by itself), or "pair" (a LoRA's A and B as one vector).
        inner: the rule that computes the gradient, such as `Sam()`; None: the plain gradient.

    Raises ValueError for a ratio outside [0, 1), another `per`, and at the first step for a scope that matches nothing.
    """

    def __init__(
        self,
        scope: str = "head",
        rescale: bool = True,
        min_ratio: float = 1e-3,
        per: Literal["tensor", "row", "pair"] = "tensor",
        inner: GradientRule | None = None,
    ) -> None:
        if not 0 <= min_ratio < 1:
            raise ValueError(f"PerpGrad: min_ratio must be at least 0 and below 1, got {min_ratio}.")
        if per not in ("tensor", "row", "pair"):
            raise ValueError(f"PerpGrad: per must be 'tensor', 'row' or 'pair', got {per!r}.")
        self.scope, self.rescale, self.min_ratio, self.per = scope, rescale, min_ratio, per
        super().__init__(inner or Plain())

    def transform(self, named_parameters: NamedParameters) -> None:
        super().transform(named_parameters)
        chosen = scoped(self.scope, named_parameters, "PerpGrad")
        if self.scope in ("adapter", "qkv", "head", "all"):
            chosen = [(name, p) for name, p in chosen if p.dim() > 1]
        for group in self._groups([(name, p) for name, p in chosen if p.grad is not None and p.numel() > 1]):
            self._project(group)

    def _groups(self, chosen: NamedParameters) -> list[list[nn.Parameter]]:
        """What is projected as one vector."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, p in chosen:
            groups.setdefault(name.replace("lora_B", "lora_A") if self.per == "pair" else name, []).append(p)
        return [*groups.values()]

    @torch.no_grad()
    def _project(self, group: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in group if p.grad is not None]
        dims = tuple(range(1, group[0].dim())) if self.per == "row" else None
        dot = _total([(p * g) for p, g in zip(group, gradients, strict=True)], dims)
        square = _total([p * p for p in group], dims)
        before = _total([g * g for g in gradients], dims).sqrt()
        for p, g in zip(group, gradients, strict=True):
            g.sub_(p * (dot / (square + _TINY)))
        if self.rescale:
            after = _total([g * g for g in gradients], dims).sqrt()
            factor = torch.where(after < self.min_ratio * before, 1.0, before / (after + _TINY))
            for g in gradients:
                g.mul_(factor)


def _total(products: list[Tensor], dims: tuple[int, ...] | None) -> Tensor:
    """The sum over all entries of all tensors, or per row where `dims` are given."""
    return torch.stack([product.sum(dims, keepdim=True) if dims else product.sum() for product in products]).sum(0)
