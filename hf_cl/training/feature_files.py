"""Which features `--feature_cache` may keep, and under which name: those of the backbone as the run found it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.checkpoints.tensors import PEFT_ROOT
from hf_cl.heads import reads_tokens
from hf_cl.images import Preprocessor
from hf_cl.training.feature_shelf import FeatureShelf

NO_MATTER = frozenset({"id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "transformers_version", "architectures"})
"""Of a base's config: nothing that features depend on."""
NO_MATTER_OF_ADAPTERS = frozenset(
    {
        "head",
        "class_names",
        "classes_per_session",
        "modules_to_save",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
    }
)
"""Of an adapter's config."""


class FeatureFiles:
    """One folder per state of a backbone, named by a hash of all that features depend on beside the picture.

    That is: weights, buffers and config of the base, the adapter's where it has tensors, what of the tower the head reads, how
    the processor normalises, and the precision. Not the head, nor what stands at the classifier's place in the base, so that all heads
    share. Features of an adapter that has trained are not kept: no other run has that adapter, and the next step changes it.

    Args:
        folder: of all states; made where it is missing.
        model: with the adapter as it was made or loaded, before anything has trained.
        prefix: of the adapter's tensors.
        config: the adapter's.
        preprocessor: of the model.
        precision: of forwards: no, bf16 or fp16.

    Raises ValueError for a folder that nobody can write to.
    """

    def __init__(self, folder: Path, model: nn.Module, prefix: str, config: Any, preprocessor: Preprocessor, precision: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"Cannot write to {folder}: {error.strerror}; choose another --feature_cache.") from error
        self.folder, self.model, self.prefix = folder, model, prefix
        base = model.get_submodule(PEFT_ROOT.rstrip("."))
        self._facts = {
            "base": type(base).__name__,
            "config": _config_of(base),
            "weights": _digest({name: p for name, p in self._before_head(model.named_parameters()) if prefix not in name}),
            "values": hashlib.sha256(preprocessor.values.numpy().tobytes()).hexdigest(),
            "pool": _read_of(config),
            "precision": precision,
        }
        self._config = {name: value for name, value in config.to_dict().items() if name not in NO_MATTER_OF_ADAPTERS}
        self._buffers, self._adapter = self._now()
        self._shelves: dict[str, FeatureShelf] = {}

    def shelf(self, role: str | None = None) -> FeatureShelf | None:
        """Of the present state, or of the bare backbone where `role` is "pretrained"; None where something has trained."""
        buffers, adapter = self._now()
        if buffers != self._buffers or role not in (None, "pretrained") or (role is None and adapter != self._adapter):
            return None
        with_adapter = role is None and adapter is not None
        return self._shelf_of(
            self._facts | {"buffers": buffers, "adapter": {"tensors": adapter, "config": self._config} if with_adapter else None}
        )

    def _shelf_of(self, facts: Mapping[str, Any]) -> FeatureShelf:
        text = json.dumps(facts, sort_keys=True, default=_plain)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        if name not in self._shelves:
            self._shelves[name] = FeatureShelf(self.folder / name, about=text)
        return self._shelves[name]

    def query_shelf(self, kind: str) -> FeatureShelf | None:
        """Of the queries by which an adapter chooses, which are the bare backbone's, taken where `kind` says."""
        buffers, _ = self._now()
        return self._shelf_of(self._facts | {"pool": None, "buffers": buffers, "adapter": None, "query": kind})

    def _now(self) -> tuple[str, str | None]:
        """Digests of buffers and of the adapter's tensors; None for an adapter without any."""
        buffers = {name: b for name, b in self._before_head(self.model.named_buffers()) if self.prefix not in name}
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        adapter = {name: tensor for name, tensor in self._before_head(own) if self.prefix in name}
        return _digest(buffers), _digest(adapter) if adapter else None

    def _before_head(self, named: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
        """Without the tensors at the classifier's place: the adapter's head, and the base's own, which may be drawn anew at every load."""
        at_its_place = {
            id(tensor)
            for module in self.model.modules()
            if isinstance(module, HeadWrapper)
            for tensor in (*module.parameters(), *module.buffers())
        }
        return [(name, tensor) for name, tensor in named if id(tensor) not in at_its_place]


def _read_of(config: Any) -> str | None:
    """What of the tower the head reads, where it is not what the model's class feeds its classifier."""
    head = config.head or {}
    return f"tokens, grid {head.get('grid')}" if head and reads_tokens(head) else head.get("pool")


def _config_of(base: Any) -> Any:
    """What the base's config says about its forward; open_clip's towers have a name instead."""
    config = base.config if isinstance(base, nn.Module) and "config" in vars(base) else None
    return _stripped(config.to_dict()) if isinstance(config, PreTrainedConfig) else base.name_or_path


def _plain(value: Any) -> Any:
    """For JSON, the same in every process."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _stripped(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _stripped(value) if isinstance(value, Mapping) else value for name, value in values.items() if name not in NO_MATTER}


def _digest(named: Mapping[str, Tensor]) -> str:
    """Of tensors by content, under the names they have in a base without an adapter."""
    total = hashlib.sha256()
    bare = {name.removeprefix(PEFT_ROOT).replace(".base_layer.", "."): tensor for name, tensor in named.items()}
    for name, tensor in sorted(bare.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
