"""The tuner layer of PROMPT_POOL: pools of rows, and those that the present images get.

Shapes: B batch, M entries, L rows of keys and as many of values, P rows of an image, D width, Q width of the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_cl._peft import BufferDict
from hf_cl.adapters.prefix import PrefixLayer, Rows
from hf_cl.adapters.prompt_pool.mvp import Mvp, MvpShared, Projection
from hf_cl.adapters.prompt_pool.pools import Pool, Produced, Producer
from hf_cl.adapters.query_pass import Query

_KINDS = ("p", "k", "a", "g")


class State(NamedTuple):
    """What the last forward needs, and what it hands out."""

    rows: Rows | None = None
    produced: Produced | None = None


class PromptPoolLayer(PrefixLayer):
    """Per adapter `prompt_pool_{p,k,a,g}`, the entries of the newest session, which train, and `prompt_pool_past_{p,k,a}`, those of earlier
    ones, which are buffers: neither an optimizer's decay nor its momentum reaches them. MVP's keys are in the first of its layers, with
    `prompt_pool_count`, how often each entry was chosen.

    Which tensors there are follows from the producer, how many entries from the number of sessions.
    """

    adapter_layer_names: tuple[str, ...] = tuple(f"prompt_pool_{kind}" for kind in _KINDS)
    other_param_names: tuple[str, ...] = (
        *(f"prompt_pool_past_{kind}" for kind in _KINDS[:3]),
        *("prompt_pool_count", "producers", "leaders", "queries"),
    )

    def __init__(self, base_layer: nn.Module, adapter_name: str, query_width: int) -> None:
        super().__init__(base_layer, adapter_name)
        self.query_width = query_width
        self.producers: dict[str, Producer] = {}
        self.prompt_pool_p, self.prompt_pool_k = nn.ParameterDict(), nn.ParameterDict()
        self.prompt_pool_a, self.prompt_pool_g = nn.ParameterDict(), nn.ParameterDict()
        self.prompt_pool_past_p, self.prompt_pool_past_k = BufferDict(persistent=True), BufferDict(persistent=True)
        self.prompt_pool_past_a = BufferDict(persistent=True)
        self.prompt_pool_count = BufferDict(persistent=True)
        self.leaders: dict[str, PromptPoolLayer] = {}
        """Adapter -> the layer whose choice this one takes."""
        self.queries: dict[str, Query] = {}
        self.projection: Projection | None = None
        self._state = State()
        self._choice: dict[str, Tensor] = {}
        self._facts: dict[str, Tensor] = {}

    def update_layer(self, adapter_name: str, producer: Producer, sessions: int, inference_mode: bool, query: Query = "output") -> None:
        """Add the pool of one adapter, with the entries of `sessions` sessions."""
        self.producers[adapter_name], self.queries[adapter_name] = producer, query
        if isinstance(producer, Mvp) and producer.has_keys:
            self.prompt_pool_count[adapter_name] = torch.zeros(producer.pool_size, dtype=torch.int64)
        newest = producer.draw(self.width, self.query_width, None)
        past = {kind: rows[:0].clone() for kind, rows in newest.items()}  # [0, ...]
        for _ in range(1, sessions):
            past, newest = self._next(producer, past, newest)
        for kind, rows in newest.items():
            if kind != "g":
                getattr(self, f"prompt_pool_past_{kind}")[adapter_name] = past[kind]
            getattr(self, f"prompt_pool_{kind}")[adapter_name] = nn.Parameter(rows)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    @torch.no_grad()
    def grow(self, adapter_name: str) -> None:
        """The entries so far rest from now on, and those of a new session come."""
        newest = {kind: getattr(self, f"prompt_pool_{kind}") for kind in _KINDS[:3]}
        before = {kind: rows[adapter_name] for kind, rows in newest.items() if adapter_name in rows}
        resting = {kind: getattr(self, f"prompt_pool_past_{kind}") for kind in before}
        past = {kind: rows[adapter_name] for kind, rows in resting.items()}
        past, now = self._next(self.producers[adapter_name], past, before)
        for kind, rows in now.items():
            if rows is not before[kind]:
                resting[kind][adapter_name] = past[kind]
                newest[kind][adapter_name] = nn.Parameter(rows.to(before[kind]), requires_grad=before[kind].requires_grad)

    def _next(self, producer: Producer, past: Pool, newest: Pool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Past and newest entries once a session has come; the same where it brings none."""
        known = {kind: torch.cat([past[kind], rows.detach()]) for kind, rows in newest.items()}  # [M, ...]
        drawn = {kind: rows for kind, rows in producer.draw(self.width, self.query_width, known).items() if len(rows)}
        return {**past, **{kind: known[kind] for kind in drawn}}, {**newest, **drawn}

    def count(self, adapter_name: str) -> Tensor:
        """[M] how often each entry of an adapter was chosen in training; of the layer with its keys."""
        return self.prompt_pool_count[adapter_name]  # pyright: ignore[reportReturnType]

    def pool(self, adapter_name: str) -> dict[str, Tensor]:
        """All entries of an adapter; a gradient reaches those of the newest session."""
        found = {}
        for kind in _KINDS:
            newest = getattr(self, f"prompt_pool_{kind}")
            if adapter_name in newest:
                past = getattr(self, f"prompt_pool_past_{kind}")[adapter_name] if kind != "g" else newest[adapter_name][:0]
                found[kind] = torch.cat([past, newest[adapter_name]]) if len(past) else newest[adapter_name]  # [M, ...]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_state": State(),
            "_choice": {},
            "_facts": {},
        }  # a copy begins without the graph of the last forward

    # What the query pass asks
    def asks(self) -> bool:
        return not self.disable_adapters and any(name in self.producers for name in self.active_adapters)

    def needs_query(self) -> Query:
        """Raises ValueError where active adapters ask different ones."""
        asked: set[Query] = {self.queries[name] for name in self.active_adapters if name in self.producers}
        if len(asked) > 1:
            raise ValueError(f"The active adapters {self.active_adapters} choose by different queries: {', '.join(sorted(asked))}.")
        return next(iter(asked))

    def rest(self) -> State:
        before, self._state, self._facts, self._choice = self._state, State(), {}, {}
        return before

    def wake(self, before: State) -> None:
        self._state = before

    def answer(self, query: Tensor) -> Tensor | None:
        made = {name: self._of_adapter(name, query) for name in self.active_adapters if name in self.producers}
        self._state = State(_joined([one.rows for one in made.values()], query.shape[0]), made.get(self.active_adapters[0]))
        return self._state.rows[0] if self._state.rows is not None else None

    def forget(self) -> None:
        self._state = self._state._replace(rows=None)

    def _of_adapter(self, name: str, query: Tensor) -> Produced:
        pool: Pool = self.pool(name)
        self.refuse_offloaded(*pool.values())
        wide = next(iter(pool.values()))
        producer = self.producers[name]
        with torch.autocast(query.device.type, enabled=False):
            if isinstance(producer, Mvp | MvpShared) and self.projection is not None:
                pool = {kind: self.projection(rows) if kind in "pg" else rows for kind, rows in pool.items()}
            if isinstance(producer, Mvp):
                return self._chosen(name, producer, query.to(wide), pool)
            return producer.produce(query.to(wide), pool, self.training)

    def _chosen(self, name: str, producer: Mvp, query: Tensor, pool: Pool) -> Produced:
        """The rows of the entries that the leader chose, which says so itself."""
        similarity, choice = None, None
        if producer.has_keys:
            similarity, choice = producer.choose(query, pool["k"], self.count(name))
            self._choice[name] = choice
            self._facts.setdefault("chosen", choice)
        chosen = self.leaders.get(name, self)._choice[name]  # [B, k]
        prompts = pool["p"][chosen]  # [B, k, 2, L, D]
        return Produced((prompts[:, :, 0].flatten(1, 2), prompts[:, :, 1].flatten(1, 2)), similarity, choice)  # [B, k L, D] each

    def take_facts(self) -> dict[str, Tensor]:
        """For a head: which entries the images of the last forward have, `chosen` [B, k]."""
        facts, self._facts = self._facts, {}
        return facts

    def rows(self) -> Rows | None:
        return self._state.rows

    def take_produced(self) -> Produced | None:
        """What the last forward made, handed out once, so that no graph outlives its step."""
        produced = self._state.produced
        self._state = self._state._replace(produced=None)
        return produced


def _joined(rows: list[Rows], batch: int) -> Rows:
    """Of all active adapters: [P, D] where every image has the same, else [B, P, D]."""
    if len(rows) == 1:
        return rows[0]
    if any(one[0].dim() == 3 for one in rows):
        rows = [(k, v) if k.dim() == 3 else (k.expand(batch, -1, -1), v.expand(batch, -1, -1)) for k, v in rows]  # [B, P, D] each
    return torch.cat([k for k, _ in rows], dim=-2), torch.cat([v for _, v in rows], dim=-2)


def stacked(produced: Sequence[Produced]) -> dict[str, Tensor]:
    """Facts of the layers, in their order, whose rows were chosen: `key_similarity` [B, S, M] and `chosen` [B, S, k] over S layers."""
    chosen = [one for one in produced if one.similarity is not None]
    if not chosen:
        return {}
    similarities, choices = [one.similarity for one in chosen], [one.chosen for one in chosen]
    return {"key_similarity": torch.stack(similarities, 1), "chosen": torch.stack(choices, 1)}  # pyright: ignore[reportArgumentType]
