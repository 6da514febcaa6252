"""Which modules "controlled fine-tuning" unfreezes: those from a given block on, by position and not by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from hf_cl._peft import BaseTunerLayer
from hf_cl.adapters.async_lora.config import EVERYTHING
from hf_cl.adapters.bases import family_of
from hf_cl.adapters.vision_blocks import TOWERS, block_list, tower_root

_PROJECTION = "visual_projection"


def modules_to_copy(model: nn.Module, unfreeze_from: int) -> list[str]:
    """Names of the modules whose weights are unfrozen: leaves of the blocks from `unfreeze_from` on, and what follows up to the features.

    -1 adds everything before the blocks; `embeddings` is one entry there, since it holds parameters of its own.
    """
    tower, root = TOWERS[family_of(model)], tower_root(model)
    children = dict(model.named_children())
    after = tower.after if "classifier" in children else tower.after + tower.pooled
    blocks = [f"{tower.blocks}.{i}" for i in range(max(unfreeze_from, 0), len(block_list(model, root + tower.blocks)))]
    before = tower.before if unfreeze_from == EVERYTHING else ()
    tops = [root + name for name in (*before, *blocks, *after)]
    if _PROJECTION in children:
        tops.append(_PROJECTION)
    return [leaf for name in tops for leaf in _leaves(name, model.get_submodule(name))]


def place_of_blocks(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the list's name there."""
    path, _, name = (tower_root(model) + TOWERS[family_of(model)].blocks).rpartition(".")
    return model.get_submodule(path), name


def frozen_blocks(model: nn.Module, unfreeze_from: int | None) -> int:
    """How many blocks, from the first, never differ from the pre-trained ones but by LoRA."""
    parent, name = place_of_blocks(model)
    return len(getattr(parent, name)) if unfreeze_from is None else max(unfreeze_from, 0)


def _leaves(name: str, module: nn.Module) -> Iterator[str]:
    """The topmost modules that hold parameters themselves; a wrapped one counts as what it wraps."""
    if isinstance(module, BaseTunerLayer) or any(True for _ in module.parameters(recurse=False)):
        yield name
        return
    for child_name, child in module.named_children():
        yield from _leaves(f"{name}.{child_name}", child)
