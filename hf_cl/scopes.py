"""Which parameters a loss, rule or probe is about, by a word or a regular expression."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hf_cl.hints import nearest

if TYPE_CHECKING:
    from hf_cl.contracts import NamedParameters

_PROJECTIONS = re.compile(r"(^|[._])(q_proj|k_proj|v_proj|qkv|in_proj|query|key|value)([._]|$)")
"""The attention's own maps, as transformers, timm and open_clip call them."""
SCOPES = ("adapter", "qkv", "head", "all")


def scoped(scope: str, named_parameters: NamedParameters, who: str) -> NamedParameters:
    """Those of `named_parameters` that a scope names.

    Args:
        scope: "adapter" (all outside the head and the losses), "qkv" (those of the adapter at the attention's q, k and v maps), "head",
            "all", or a regular expression that is searched for in the names.
        named_parameters: as hooks get them from the trainer.
        who: the part that asks, for messages.

    Raises ValueError for an expression that cannot be read or matches nothing.
    """
    if scope == "all":
        return named_parameters
    if scope == "head":
        found = [(name, p) for name, p in named_parameters if name.startswith("head.")]
    else:
        found = [(name, p) for name, p in named_parameters if not name.startswith(("head.", "losses."))]
        if scope == "qkv":
            found = [(name, p) for name, p in found if _PROJECTIONS.search(name)]
        elif scope != "adapter":
            found = _matching(scope, named_parameters, who)
    if not found:
        names = [name for name, _ in named_parameters]
        raise ValueError(f"{who}: scope {scope!r} matches none of the {len(names)} trainable parameters.{_hint(scope, names)}")
    return found


def _matching(scope: str, named_parameters: NamedParameters, who: str) -> NamedParameters:
    try:
        pattern = re.compile(scope)
    except re.error as error:
        raise ValueError(f"{who}: scope {scope!r} is neither one of {', '.join(SCOPES)} nor a regular expression: {error}.") from error
    return [(name, p) for name, p in named_parameters if pattern.search(name)]


def _hint(scope: str, names: list[str]) -> str:
    near = nearest(scope, [*SCOPES, *(piece for name in names for piece in name.split("."))])
    return near or f" There are {', '.join(names[:3])}, ..." if names else near
