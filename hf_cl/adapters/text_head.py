"""The text head in an adapter's config: the default on models with two towers, and what is refused at injection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.config import HeadedConfig
from hf_cl.heads.text import TextHeadSpec


def has_two_towers(model: nn.Module) -> bool:
    """Whether the base has a text tower beside its vision tower, so that class names can be its head."""
    family = family_of(model)
    if family == OPEN_CLIP:
        return bool({"token_embedding", "text"} & dict(model.named_children()).keys())
    return family in ("clip", "siglip")


def settle_text_head(config: HeadedConfig, model: nn.Module, default: Mapping[str, Any]) -> None:
    """Give a config with class names the text head `default` on a model with two towers, and check a text head's settings and names.

    Raises ValueError for a text head on a lone tower, malformed settings, and class names that the texts cannot tell apart.
    """
    two_towers = has_two_towers(model)
    if config.class_names and config.head is None and two_towers:
        config.head = dict(default)
    if (config.head or {}).get("type") != "text":
        return
    if not two_towers:
        raise ValueError(f"A text head needs a base with two towers; {type(model).__name__} has one. Use head={{'type': 'linear'}}.")
    TextHeadSpec.of(config.head or {}).texts(config.class_names or [])
