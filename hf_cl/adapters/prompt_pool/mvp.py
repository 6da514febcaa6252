"""MVP's pool: an entry per image, by distance times how often the entry was chosen.

Moon, Park, Kim, Park: "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual Prompt Tuning" (ICCV 2023,
arXiv 2308.09303). Numbers of its code (github.com/moonjunyyy/Si-Blurry, GPL-3: read, not copied) are in tests/reference/mvp.

Its prompts are tokens that one block reads and that are cut off behind it. The other tokens see them as keys and values of that block, so
rows of the prefix injector are the same: the block's own norm and projections of the prompts. In mode "prefix" they are projected without
the norm, from prompts of their own for keys and for values.

Shapes: B batch, M entries of a pool, k entries of an image, h 1 (tuning) or 2 (prefix), L rows, D width, Q width of the query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl.adapters.prompt_pool.pools import Pool, Produced

_NORMS = ("layernorm_before", "norm1", "layer_norm1")
"""What the first norm of a block is called."""


@dataclass(frozen=True)
class Mvp:
    """The `top_k` entries with the least distance of query and key, times (with `balance`) one more than how often each was chosen.

    One layer has the keys and chooses; those behind it in the pool take its choice.
    """

    pool_size: int
    top_k: int
    tokens: int
    halves: int
    balance: bool
    has_keys: bool

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        """New entries: all in the first session, none later; normal."""
        entries = self.pool_size if known is None else 0
        drawn = {"p": torch.randn(entries, self.halves, self.tokens, width)}
        return {**drawn, "k": torch.randn(entries, query_width)} if self.has_keys else drawn

    def choose(self, query: Tensor, keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of query and keys [B, M], and who is chosen [B, k]."""
        similarity = F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T  # [B, M]
        distance = (1 - similarity).detach()
        if self.balance:
            distance = distance * (count + 1)
        return similarity, distance.topk(self.top_k, dim=-1, largest=False).indices


@dataclass(frozen=True)
class MvpShared:
    """Rows that all images share."""

    tokens: int
    halves: int

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        return {"g": torch.randn(self.halves, self.tokens, width)} if known is None else {}

    def produce(self, query: Tensor, pool: Pool, training: bool) -> Produced:
        return Produced((pool["g"][0], pool["g"][1]))


class Projection:
    """How a block makes keys and values of prompts."""

    def __init__(self, block: nn.Module, attention: nn.Module) -> None:
        self._modules = (next(child for name, child in block.named_children() if name in _NORMS), attention)

    def __call__(self, prompts: Tensor) -> Tensor:  # [..., h, L, D] -> [..., 2, L, D]
        norm, attention = self._modules
        k_proj, v_proj = attention.k_proj, attention.v_proj
        inside = next(norm.parameters()).dtype
        given = prompts.to(inside)
        if prompts.shape[-3] == 1:  # tuning: one prompt for both
            given = norm(given).expand(*prompts.shape[:-3], 2, -1, -1)  # [..., 2, L, D]
        keys, values = given.unbind(-3)  # [..., L, D] each
        return torch.stack([k_proj(keys), v_proj(values)], dim=-3).to(prompts.dtype)  # pyright: ignore[reportCallIssue]
