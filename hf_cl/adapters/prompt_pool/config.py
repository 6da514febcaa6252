"""Configuration of the peft type PROMPT_POOL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, PeftType
from torch import nn

from hf_cl.adapters.bases import family_of, signature
from hf_cl.adapters.config import MAX_ROWS
from hf_cl.adapters.field_types import check_count
from hf_cl.adapters.prefix_config import PrefixConfig
from hf_cl.adapters.prompt_pool.mvp import Mvp, MvpShared
from hf_cl.adapters.prompt_pool.pools import L2P, Coda, Dual, Producer, Shared
from hf_cl.adapters.query_pass import query_misfits
from hf_cl.hints import nearest

_DEFAULTS: dict[str, dict[str, Any]] = {
    "l2p": {"e_layers": [0], "e_tokens": 10, "pool_size": 30, "top_k": 5},
    "dual": {"e_layers": [2, 3, 4], "e_tokens": 20, "g_layers": [0, 1], "g_tokens": 5},
    "coda": {"e_layers": [0, 1, 2, 3, 4], "e_tokens": 4, "components_per_session": 10},
    "mvp": {
        "e_layers": [2, 3, 4],
        "e_tokens": 20,
        "g_layers": [0, 1],
        "g_tokens": 5,
        "pool_size": 10,
        "top_k": 1,
        "mode": "tuning",
        "balance": True,
        "query": "penultimate",
    },
}
"""Producer -> the fields it has, with the official settings; half of a published length, which counts keys and values together."""


@dataclass
class PromptPoolConfig(PrefixConfig, PeftConfig):
    """L2P, DualPrompt, CODA-Prompt or MVP: prefix key/value rows that differ from image to image, chosen by the image's query.

    The query is the class token of the untouched tower, which runs once more for it. What a pool has per session grows with the sessions.

    Raises ValueError for a producer that there is not, a field that the producer does not have, counts below 1, a `top_k` above the pool,
    a layer with both kinds of rows, and for what `HeadedConfig` refuses.
    """

    producer: Literal["l2p", "dual", "coda", "mvp"] = field(
        default="coda", metadata={"help": "which rows an image gets: l2p, dual, coda, mvp"}
    )
    e_layers: list[int] | None = field(default=None, metadata={"help": "layers (from 0) whose rows are chosen by the query"})
    e_tokens: int | None = field(default=None, metadata={"help": "rows of an entry for the keys, and as many for the values"})
    g_layers: list[int] | None = field(default=None, metadata={"help": "dual, mvp: layers whose rows all images share"})
    g_tokens: int | None = field(default=None, metadata={"help": "dual, mvp: how many rows all images share, of keys and of values"})
    pool_size: int | None = field(default=None, metadata={"help": "l2p, mvp: entries of the pool"})
    top_k: int | None = field(default=None, metadata={"help": "l2p, mvp: entries that an image gets"})
    components_per_session: int | None = field(default=None, metadata={"help": "coda: components that each session adds"})
    mode: Literal["tuning", "prefix"] | None = field(
        default=None, metadata={"help": "mvp: prompts are tokens of their block (tuning), or rows for its keys and its values (prefix)"}
    )
    balance: bool | None = field(
        default=None, metadata={"help": "mvp: the distance to an entry is multiplied by how often it was chosen, and one more"}
    )
    query: Literal["penultimate", "last"] | None = field(
        default=None, metadata={"help": "mvp: the block after which the query is taken, without the norm"}
    )
    grows: bool = field(default=True, metadata={"help": "whether later sessions add entries; False where they do not train the adapter"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["PROMPT_POOL"]
        self.check_shared_fields()
        if self.producer not in _DEFAULTS:
            raise ValueError(f"Unknown producer {self.producer!r}.{nearest(self.producer, _DEFAULTS)} Known: {', '.join(_DEFAULTS)}.")
        defaults = _DEFAULTS[self.producer]
        for name in sorted({name for fields in _DEFAULTS.values() for name in fields}):
            value = getattr(self, name)
            if name not in defaults and value is not None:
                raise ValueError(f"The producer {self.producer} has no {name}; leave it out.")
            if value is None and name in defaults:
                setattr(self, name, defaults[name])
        self._check_counts()
        self.check_layers()

    def _check_counts(self) -> None:
        for name in ("e_tokens", "g_tokens", "pool_size", "top_k", "components_per_session"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
            check_count(name, value or 1, MAX_ROWS, "more than any backbone reads")
        if self.top_k is not None and self.pool_size is not None and self.top_k > self.pool_size:
            raise ValueError(f"top_k {self.top_k} is more than the pool_size {self.pool_size}.")
        if both := sorted(set(self.e_layers or ()) & set(self.g_layers or ())):
            raise ValueError(f"Layers {both} are among e_layers and g_layers; a layer has rows of one kind.")
        if not self.e_layers:
            raise ValueError("e_layers is empty; name at least one layer.")

    @property
    def layers_with_rows(self) -> list[int] | None:
        return sorted({*(self.e_layers or ()), *(self.g_layers or ())})

    @property
    def sessions(self) -> int:
        """Sessions that have brought entries."""
        return max(1, len(self.classes_per_session or ())) if self.grows else 1

    def misfits(self, model: nn.Module) -> list[str]:
        depth = signature(model)["depth"]
        faults = []
        if missing := [layer for layer in self.layers_with_rows or () if not 0 <= layer < depth]:
            faults.append(f"e_layers and g_layers name layers {missing}, but the base has layers 0 to {depth - 1}.")
        if self.producer == "mvp" and (family := family_of(model)) in ("siglip", "siglip_vision", "open_clip"):
            faults.append(f"MVP's query is a class token inside of the tower, which is not to be had on a base of family {family}.")
        return faults + query_misfits(model)

    def producer_of(self, module_name: str) -> Producer:
        """What makes the rows of a targeted module.

        Raises ValueError where a regex in `target_modules` hit a layer without rows.
        """
        layer, halves = self.layer_of(module_name), 1 if self.mode == "tuning" else 2
        if layer in (self.g_layers or ()):
            return MvpShared(self.g_tokens or 1, halves) if self.producer == "mvp" else Shared(self.g_tokens or 1)
        if layer not in (self.e_layers or ()):
            raise ValueError(f"Neither e_layers nor g_layers names the layer of the targeted module {module_name!r}.")
        tokens = self.e_tokens or 1
        if self.producer == "mvp":
            has_keys = layer == min(self.e_layers or ())
            return Mvp(self.pool_size or 1, self.top_k or 1, tokens, halves, self.balance is not False, has_keys)
        if self.producer == "l2p":
            return L2P(self.pool_size or 1, self.top_k or 1, tokens)
        return Dual(tokens) if self.producer == "dual" else Coda(self.components_per_session or 1, tokens)
