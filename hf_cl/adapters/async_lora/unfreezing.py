"""Which modules "controlled fine-tuning" unfreezes: those from a given block on, by position and not by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from hf_cl._peft import BaseTunerLayer
from hf_cl.adapters.async_lora.config import EVERYTHING
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
_PROJECTION = "visual_projection"


def modules_to_copy(model: nn.Module, unfreeze_from: int) -> list[str]:
    """Names of the modules whose weights are unfrozen: leaves of the blocks from `unfreeze_from` on, and what follows up to the features.

    -1 adds everything before the blocks; `embeddings` is one entry there, since it holds parameters of its own.
    """
    tower, root = TOWERS[family_of(model)], _root(model)
    children = dict(model.named_children())
    after = tower.after if "classifier" in children else tower.after + tower.pooled
    blocks = [f"{tower.blocks}.{i}" for i in range(max(unfreeze_from, 0), len(_blocks(model, root + tower.blocks)))]
    before = tower.before if unfreeze_from == EVERYTHING else ()
    tops = [root + name for name in (*before, *blocks, *after)]
    if _PROJECTION in children:
        tops.append(_PROJECTION)
    return [leaf for name in tops for leaf in _leaves(name, model.get_submodule(name))]


def place_of_blocks(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the list's name there."""
    path, _, name = (_root(model) + TOWERS[family_of(model)].blocks).rpartition(".")
    return model.get_submodule(path), name


def frozen_blocks(model: nn.Module, unfreeze_from: int | None) -> int:
    """How many blocks, from the first, never differ from the pre-trained ones but by LoRA."""
    parent, name = place_of_blocks(model)
    return len(getattr(parent, name)) if unfreeze_from is None else max(unfreeze_from, 0)


def _root(model: nn.Module) -> str:
    children = dict(model.named_children())
    return "".join(f"{name}." for name in _ROOTS if name in children)


def _blocks(model: nn.Module, name: str) -> nn.ModuleList:
    blocks = model.get_submodule(name)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _leaves(name: str, module: nn.Module) -> Iterator[str]:
    """The topmost modules that hold parameters themselves; a wrapped one counts as what it wraps."""
    if isinstance(module, BaseTunerLayer) or any(True for _ in module.parameters(recurse=False)):
        yield name
        return
    for child_name, child in module.named_children():
        yield from _leaves(f"{name}.{child_name}", child)
