"""Where the prompts of CPE_CLIP enter a base model: the towers of each family, as paths of modules.

The rest of the package knows towers only through these two classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from hf_cl.adapters.bases import OPEN_CLIP, family_of


@dataclass(frozen=True)
class TextTower:
    """A text tower. Paths are relative to the injected model; "" is the model itself."""

    ids: str | None
    """Module whose `input_ids` and `attention_mask` get room for the prompts; None: the embeddings make the room themselves."""
    embedding: str
    """The token embedding."""
    layers: str
    """The list of layers."""
    depth: int
    width: int
    max_positions: int
    """Length of the text context."""
    first: int
    """Position of the first prompt: 1 behind BOS, 0 where texts have no BOS."""
    pooling: Literal["eos", "argmax", "last"]
    """Where a text is pooled: at its first `eos_id`, at its largest id, at the last position."""
    eos_id: int = -1

    @property
    def anchor(self) -> str:
        return self.embedding


@dataclass(frozen=True)
class VisionTower:
    """A vision tower. Paths are relative to the injected model."""

    tokens: str
    """Module whose output is [CLS; patches] with positions, before any normalisation."""
    layers: str
    """The list of layers."""
    anchor: str
    """The module that owns the prompts where the text tower has none."""
    depth: int
    width: int


def text_tower(model: Any) -> TextTower | None:
    """The text tower of `model`, None where it has none.

    Raises ValueError for a text tower that the prompts do not fit.
    """
    if family_of(model) == OPEN_CLIP:
        return _open_clip_text(model)
    children: dict[str, Any] = dict(model.named_children())
    if "text_model" in children:
        prefix, config = "text_model.", children["text_model"].config
    elif "token_embedding" in dict(children.get("embeddings", nn.Module()).named_children()):
        prefix, config = "", model.config
    else:
        return None
    siglip = "siglip" in config.model_type
    return TextTower(
        ids=prefix.removesuffix("."),
        embedding=f"{prefix}embeddings.token_embedding",
        layers=f"{prefix}encoder.layers",
        depth=config.num_hidden_layers,
        width=config.hidden_size,
        max_positions=config.max_position_embeddings,
        first=0 if siglip else 1,
        # transformers pools configs with the historical EOS id 2 at the largest id
        pooling="last" if siglip else "argmax" if config.eos_token_id == 2 else "eos",
        eos_id=config.eos_token_id,
    )


def vision_tower(model: Any) -> VisionTower | None:
    """The vision tower of `model`, None where it has none."""
    if family_of(model) == OPEN_CLIP:
        return _open_clip_vision(model)
    children: dict[str, Any] = dict(model.named_children())
    if "vision_model" in children:
        prefix, tower = "vision_model.", children["vision_model"]
    elif "patch_embedding" in dict(children.get("embeddings", nn.Module()).named_children()):
        prefix, tower = "", model
    else:
        return None
    has_pre_norm = "pre_layrnorm" in dict(tower.named_children())
    return VisionTower(
        tokens=f"{prefix}embeddings",
        layers=f"{prefix}encoder.layers",
        anchor=f"{prefix}{'pre_layrnorm' if has_pre_norm else 'post_layernorm'}",
        depth=tower.config.num_hidden_layers,
        width=tower.config.hidden_size,
    )


def _open_clip_text(model: Any) -> TextTower | None:
    children: dict[str, Any] = dict(model.named_children())
    if "token_embedding" in children:
        prefix, tower, pool, eos = "", model, model.text_pool_type, model.text_eos_id
    elif "text" in children:
        prefix, tower = "text.", children["text"]
        if type(tower).__name__ != "TextTransformer":
            raise ValueError(f"CPE_CLIP knows open_clip's own text transformer; this text tower is a {type(tower).__name__}.")
        if tower.cls_emb is not None or tower.use_pad_mask:
            raise ValueError("CPE_CLIP does not support text towers with an appended class token (CoCa) or a padding mask.")
        pool, eos = tower.pool_type, tower.eos_id
    else:
        return None
    if pool not in ("argmax", "eos", "last"):
        raise ValueError(f"CPE_CLIP does not support the text pooling {pool!r} of this open_clip model; it supports argmax, eos and last.")
    return TextTower(
        ids=None,
        embedding=f"{prefix}token_embedding",
        layers=f"{prefix}transformer.resblocks",
        depth=len(tower.transformer.resblocks),
        width=tower.transformer.width,
        max_positions=model.context_length,
        first=0 if pool == "last" else 1,
        pooling=pool,
        eos_id=eos,
    )


def _open_clip_vision(model: Any) -> VisionTower:
    visual: Any = model.visual
    has_pre_norm = next(visual.ln_pre.parameters(), None) is not None
    return VisionTower(
        tokens="visual.patch_dropout",
        layers="visual.transformer.resblocks",
        anchor="visual.ln_pre" if has_pre_norm else "visual.ln_post",
        depth=len(visual.transformer.resblocks),
        width=visual.transformer.width,
    )
