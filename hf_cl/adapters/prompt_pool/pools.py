"""The three ways of a prompt pool: which rows an image gets by its query. One small class each, without state.

L2P (Wang et al., CVPR 2022) takes the prompts whose keys are nearest, DualPrompt (Wang et al., ECCV 2022) the set of one session and rows
that all images share, CODA-Prompt (Smith et al., CVPR 2023) a weighted sum of all components. L2P is here in the form that
CODA-Prompt's repository calls L2P++: prefix rows, chosen image by image.

Equations and draws follow github.com/GT-RIPL/CODA-Prompt and github.com/jpmorganchase/ovor; their numbers are in tests/reference.

Shapes: B batch, M entries of a pool, k entries of an image, L rows for the keys and as many for the values, D width, Q width of the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_cl.adapters.prefix import Rows

Pool = Mapping[str, Tensor]
"""Tensors of one layer: `p` [M, 2, L, D] the prompts, half of them rows for keys and half for values; `k` and `a` [M, Q] keys and
attention; `g` [2, L, D] rows that all images share."""


class Produced(NamedTuple):
    """What a pool makes of the queries of a batch."""

    rows: Rows
    similarity: Tensor | None = None  # [B, M]
    chosen: Tensor | None = None  # [B, k]


@dataclass(frozen=True)
class L2P:
    """The `top_k` of a fixed number of prompts, by the cosine of query and key."""

    pool_size: int
    top_k: int
    tokens: int

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        """New entries: all in the first session, none later. U[0, 1), as published."""
        entries = self.pool_size if known is None else 0
        return {"p": torch.rand(entries, 2, self.tokens, width), "k": torch.rand(entries, query_width)}

    def produce(self, query: Tensor, pool: Pool, training: bool) -> Produced:
        similarity = F.normalize(query, dim=-1) @ F.normalize(pool["k"], dim=-1).T  # [B, M]
        chosen = similarity.topk(self.top_k, dim=-1).indices  # [B, k]
        prompts = pool["p"][chosen]  # [B, k, 2, L, D]
        return Produced((prompts[:, :, 0].flatten(1, 2), prompts[:, :, 1].flatten(1, 2)), similarity, chosen)  # [B, k L, D] each


@dataclass(frozen=True)
class Dual:
    """One entry per session: in training that of the newest, else the one whose key is nearest."""

    tokens: int

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        """The entry of a session. U[0, 1), as published."""
        return {"p": torch.rand(1, 2, self.tokens, width), "k": torch.rand(1, query_width)}

    def produce(self, query: Tensor, pool: Pool, training: bool) -> Produced:
        similarity = F.normalize(query, dim=-1) @ F.normalize(pool["k"], dim=-1).T  # [B, M]
        if training:
            chosen = torch.full_like(similarity[:, :1], len(pool["k"]) - 1, dtype=torch.long)  # [B, 1]
        else:
            chosen = similarity.argmax(dim=-1, keepdim=True)  # [B, 1]
        prompts = pool["p"][chosen[:, 0]]  # [B, 2, L, D]
        return Produced((prompts[:, 0], prompts[:, 1]), similarity, chosen)


@dataclass(frozen=True)
class Shared:
    """DualPrompt's rows that all images of all sessions share."""

    tokens: int

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        return {"g": torch.rand(2, self.tokens, width)} if known is None else {}

    def produce(self, query: Tensor, pool: Pool, training: bool) -> Produced:
        return Produced((pool["g"][0], pool["g"][1]))


@dataclass(frozen=True)
class Coda:
    """All components, each weighted by the cosine of its key and the query that its attention has masked."""

    components_per_session: int
    tokens: int

    def draw(self, width: int, query_width: int, known: Pool | None) -> dict[str, Tensor]:
        """The components of a session, nearly orthogonal to those before (`orthogonal_rows`); k, a, p in this order, as published."""
        shapes = {"k": query_width, "a": query_width, "p": 2 * self.tokens * width}
        new = {}
        for name, size in shapes.items():
            draws = torch.randn(self.components_per_session, size)
            before = draws[:0] if known is None else known[name].detach().flatten(1).to(draws)
            new[name] = orthogonal_rows(before, draws)
        return {**new, "p": new["p"].unflatten(1, (2, self.tokens, width))}

    def produce(self, query: Tensor, pool: Pool, training: bool) -> Produced:
        masked = F.normalize(query[:, None] * pool["a"], dim=-1)  # [B, M, Q]
        weights = torch.einsum("bmq,mq->bm", masked, F.normalize(pool["k"], dim=-1))  # [B, M]
        rows = torch.einsum("bm,mhld->hbld", weights, pool["p"])  # [2, B, L, D]
        return Produced((rows[0], rows[1]))


Producer = Any
"""One of these, or of `mvp`."""


def orthogonal_rows(known: Tensor, draws: Tensor) -> Tensor:
    """[m, D] new rows at unit length from normal draws [m, D], by Gram-Schmidt against the `known` rows [n, D] and one another.

    The official growth: a new row loses its projection on each earlier one, trained rows among them, which are not orthogonal to each
    other any more; so the result is only nearly orthogonal to them. Of a space's D dimensions the first D rows can have one each: what
    comes after them is drawn, and brought to unit length. A trained row of length 0 takes no part.
    """
    rows = known
    for draw in draws:
        squares = rows.square().sum(-1)  # [n]
        shares = torch.where(squares > 1e-8, rows @ draw / squares.clamp_min(1e-8), torch.zeros_like(squares))  # [n]
        new = draw - shares @ rows if len(rows) < rows.shape[1] else draw
        rows = torch.cat([rows, new[None]])  # [n + 1, D]
    return F.normalize(rows[len(known) :], dim=-1)
