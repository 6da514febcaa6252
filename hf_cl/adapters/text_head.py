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
    """Give a config with class names the text head `default` on a model with two towers: for adapters that train both.

    Raises ValueError for an adapter that was made for another text tower.
    """
    if not has_two_towers(model):
        return
    _check_text_tower(config, model)
    if config.class_names and config.head is None:
        config.head = dict(default)


def check_text_head(config: HeadedConfig, model: nn.Module) -> None:
    """Of every adapter type, before anything is injected: does the text head fit the base, where the config has one?

    Raises ValueError for a text head on a lone tower, malformed settings, class names that the texts cannot tell apart, and an adapter
    that was made for another text tower.
    """
    if not config.has_text_head:
        return
    if not has_two_towers(model):
        raise ValueError(f"A text head needs a base with two towers; {type(model).__name__} has one. Use head={{'type': 'linear'}}.")
    _check_text_tower(config, model)
    TextHeadSpec.of(config.head or {}).texts(config.class_names or [])


def _check_text_tower(config: HeadedConfig, model: nn.Module) -> None:
    """The base's signature speaks of the vision tower; models with two have a second width and depth."""
    found = _text_size(model)
    expected = (config.base_signature or {}).get("text")
    if found is None or config.base_signature is None:
        return
    if expected is None:
        config.base_signature["text"] = found
    elif expected != found:
        (width, depth), (other_width, other_depth) = ([size["hidden_size"], size["depth"]] for size in (expected, found))
        raise ValueError(
            f"The adapter was made for a text tower of width {width} with {depth} layers; this base has one of width {other_width} with "
            f"{other_depth} layers. Load the base that the adapter names."
        )


def _text_size(model: Any) -> dict[str, int] | None:
    if family_of(model) != OPEN_CLIP:
        text = model.config.text_config
        return {"hidden_size": text.hidden_size, "depth": text.num_hidden_layers}
    tower: Any = dict(model.named_children()).get("text", model)
    if type(tower).__name__ == "HFTextEncoder":
        return None
    return {"hidden_size": tower.transformer.width, "depth": len(tower.transformer.resblocks)}
