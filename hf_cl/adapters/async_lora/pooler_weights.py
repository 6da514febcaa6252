"""The pooler of the base checkpoint, which the classification classes of transformers drop when they load."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from hf_cl.adapters.bases import family_of

_PREFIXES = {"vit": ("", "vit."), "deit": ("", "deit.")}


def read_pooler(model: nn.Module) -> dict[str, Tensor] | None:
    """`weight` [D, D] and `bias` [D] of the pooler in the checkpoint that `model` was loaded from; None where there is none.

    Only files on this machine are looked at (a folder, or the Hub cache that the base itself came from), and only safetensors.
    """
    folder_or_id = getattr(model, "name_or_path", "")
    prefixes = _PREFIXES.get(family_of(model), ())
    if not folder_or_id or not prefixes:
        return None
    for prefix in prefixes:
        names = {key: f"{prefix}pooler.dense.{key}" for key in ("weight", "bias")}
        file = _file_with(folder_or_id, names["weight"], getattr(model.config, "_commit_hash", None))
        if file is not None:
            with safe_open(file, framework="pt") as tensors:
                return {key: tensors.get_tensor(name) for key, name in names.items()}
    return None


def without_pooler(model: nn.Module) -> str:
    """What is said of a base whose checkpoint has none, to a head that asks for it."""
    place = getattr(model, "name_or_path", "") or "nothing: the model was made from a config"
    return (
        f"The head asks for the pooler of the base, and {type(model).__name__} has no checkpoint with one (looked in {place}). Take a ViT "
        'with a pooler, or another head: --head \'{type: cosine}\' of the command, head={"type": "cosine"} in Python; '
        "{type: linear, bias: false} is the published one without its pooler."
    )


def _file_with(folder_or_id: str, key: str, revision: str | None) -> Path | None:
    """The safetensors file of a checkpoint that holds `key`."""
    index = _local(folder_or_id, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is not None:
        shard = json.loads(index.read_text())["weight_map"].get(key)
        return None if shard is None else _local(folder_or_id, shard, revision)
    file = _local(folder_or_id, SAFE_WEIGHTS_NAME, revision)
    if file is None:
        return None
    with safe_open(file, framework="pt") as tensors:
        return file if key in tensors.keys() else None  # noqa: SIM118 (safe_open is no dict)


def _local(folder_or_id: str, name: str, revision: str | None) -> Path | None:
    try:
        return Path(cached_file(folder_or_id, name, revision=revision, local_files_only=True))  # pyright: ignore[reportArgumentType]
    except OSError:  # transformers' word for a file that is not there
        return None
