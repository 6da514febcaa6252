"""Where the vision towers of the families have their embedding, blocks and last norm, by position in the forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hf_cl.adapters.bases import family_of


@dataclass(frozen=True)
class Tower:
    """The parts of a vision tower in the order of the forward pass. Names are relative to the tower."""

    blocks: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    """What follows the blocks up to the last hidden state, which `...ForImageClassification` classes classify."""
    pooled: tuple[str, ...] = ()
    """What follows further up to the pooled output, which all other classes give as the image's features."""


_VIT = Tower("layers", ("embeddings",), ("layernorm",))
_CLIP = Tower("encoder.layers", ("embeddings", "pre_layrnorm"), (), ("post_layernorm",))
_SIGLIP = Tower("encoder.layers", ("embeddings",), ("post_layernorm",), ("head",))
TOWERS = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": Tower("encoder.layer", ("embeddings",), ("layernorm",)),
    "clip_vision": _CLIP,
    "clip": _CLIP,
    "siglip_vision": _SIGLIP,
    "siglip": _SIGLIP,
}
"""Base family -> its vision tower."""

_ROOTS = ("vit", "deit", "dinov2", "vision_model")


def tower_root(model: nn.Module) -> str:
    """What comes before the names of the tower's parts: "vit." or nothing, where the model is the tower."""
    children = dict(model.named_children())
    return "".join(f"{name}." for name in _ROOTS if name in children)


def block_list(model: nn.Module, name: str) -> nn.ModuleList:
    """The blocks under a name."""
    blocks = model.get_submodule(name)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def stages(model: nn.Module) -> list[str]:
    """Names of the modules whose outputs are the hidden states: what comes last before the blocks, and every block. Empty for a family that
    is not in `TOWERS`."""
    if family_of(model) not in TOWERS:
        return []
    tower, root = TOWERS[family_of(model)], tower_root(model)
    count = len(block_list(model, root + tower.blocks))
    return [root + tower.before[-1], *(f"{root}{tower.blocks}.{number}" for number in range(count))]
