"""Class statistics in files: what checkpoints refer to, and what goes beside an adapter for those who go on from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.known_classes import KINDS
from hf_cl.memory.moments import Moments
from hf_cl.memory.statistics_tensors import moments_of, tensors_of

STATISTICS_FILE = "class_statistics.safetensors"
"""Beside an adapter, with the setting `export_statistics`."""
FOLDER = "statistics"
"""In the folder of the checkpoints."""
_FORMAT_VERSION = 1
_HEAD = "head."


class StatisticsFiles:
    """The class statistics of a run: a file for what each session brings, which is never changed afterwards.

    A checkpoint names the files it needs, so that neither its size nor its time grows with the classes that a run has seen. Where features
    move and a drift map carries all classes along, what was written of them is written anew, and the old files go with the last checkpoint
    that names them.

    Args:
        folder: `checkpoints/` of the run folder.
        writes: whether this process writes; the others know the same statistics.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self.writes = folder / FOLDER, writes
        self._held: dict[int, tuple[Moments, str]] = {}
        self._sums: dict[str, str] = {}

    def write(self, statistics: ClassStatistics) -> dict[str, list[int]]:
        """Put what no file holds yet into a new one; file -> the classes that are read from it."""
        if not self.writes:
            return {}
        new = {label: each for label, each in statistics.moments.items() if label not in self._held or self._held[label][0] is not each}
        if new:
            content = save(tensors_of(new))
            digest = hashlib.sha256(content).hexdigest()
            name = f"session-{max(statistics.sessions, default=0)}-{digest[:16]}.safetensors"
            self._sums[name] = digest
            self._held |= {label: (each, name) for label, each in new.items()}
            _write(self.folder / name, content)
        files: dict[str, list[int]] = {}
        for label in statistics.moments:
            files.setdefault(self._held[label][1], []).append(label)
        return files

    def sums(self, files: Iterable[str]) -> dict[str, str]:
        """Path of each file, as seen from the checkpoints' folder, and its checksum."""
        return {f"{FOLDER}/{name}": self._sums[name] for name in files}

    def read(self, files: Mapping[str, Sequence[int]]) -> dict[int, Moments]:
        """The moments of the classes that a checkpoint reads from its files.

        Raises ValueError, naming the file, for one that cannot be read.
        """
        found: dict[int, Moments] = {}
        for name, classes in files.items():
            path = self.folder / Path(name).name
            with _naming(path):
                moments = moments_of(load_file(path))
                found |= {label: moments[label] for label in classes}
                self._held |= {label: (moments[label], name) for label in classes}
                self._sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def remove_unused(self, needed: Iterable[str]) -> None:
        """Remove the files that no checkpoint needs; `needed` as `sums` names them."""
        kept = {Path(path).name for path in needed}
        for path in self.folder.glob("*") if self.writes else ():
            if path.name not in kept:
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    """Aside, synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{path.name}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


@dataclass(frozen=True)
class SavedStatistics:
    """What lies beside an adapter: everything that a run which goes on from it needs beyond the adapter itself."""

    statistics: ClassStatistics
    class_names: tuple[str, ...]
    """By position."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """The head's own training state by the name of its buffer: votes for its settings, sums under a feature map."""


def save_statistics(folder: Path, saved: SavedStatistics) -> None:
    """Write `class_statistics.safetensors` into an adapter's folder; exactly, in float64."""
    summary = saved.statistics.summary()
    pooled = summary.pop("pooled")
    tensors = tensors_of(saved.statistics.moments)
    tensors |= {"pooled": pooled.contiguous()} if pooled is not None else {}
    tensors |= {_HEAD + name: tensor.detach().cpu().contiguous() for name, tensor in saved.head.items()}
    facts = {"format_version": _FORMAT_VERSION, "class_names": [*saved.class_names], **summary}
    (folder / STATISTICS_FILE).write_bytes(save(tensors, {"class_statistics": json.dumps(facts)}))


def load_statistics(folder: Path) -> SavedStatistics:
    """Read it again, to the bit.

    Raises FileNotFoundError where there is none, and ValueError, naming the file, for one that is damaged or newer than this hf_cl.
    """
    path = folder / STATISTICS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {STATISTICS_FILE}: the run that trained it was not asked to --export_statistics.")
    with _naming(path):
        facts, tensors = _facts(path), load_file(path)
        moments, pooled = moments_of(tensors), tensors.get("pooled")
        width = len(next(iter(moments.values())).mean) if moments else 0
        if pooled is not None and (pooled.shape != (width, width) or pooled.dtype != torch.float64 or not pooled.isfinite().all()):
            raise ValueError(f"pooled must be {[width, width]} of float64.")
        if not moments.keys() <= set(range(len(facts["class_names"]))):
            raise ValueError(f"it names {len(facts['class_names'])} classes and has statistics of position {max(moments)}.")
        statistics = ClassStatistics(facts["kinds"], rank=facts["rank"])
        statistics.restore(facts | {"pooled": pooled}, moments)
        head = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
        return SavedStatistics(statistics, tuple(facts["class_names"]), head)


def training_state(head: nn.Module) -> dict[str, Tensor]:
    """The head's buffers that no adapter's file holds."""
    saved = head.state_dict().keys()
    return {name: buffer for name, buffer in head.named_buffers() if name not in saved}


def restore_training_state(head: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Inverse of `training_state`. Raises ValueError, naming the file in `folder`, for the state of another head."""
    buffers = dict(head.named_buffers())
    for name, tensor in state.items():
        if name not in buffers:
            raise ValueError(f"{folder / STATISTICS_FILE} has {name!r} of another head.")
        owner, _, leaf = name.rpartition(".")
        setattr(head.get_submodule(owner), leaf, tensor.to(buffers[name].device))


_TYPES: dict[str, Any] = {"kinds": str, "rank": None, "sessions": int, "taken_with": None, "moved": None, "class_names": str}
"""The facts; of lists the type of an entry."""


def _facts(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as opened:
        facts = json.loads((opened.metadata() or {}).get("class_statistics", "null"))
    if not isinstance(facts, dict) or type(facts.get("format_version")) is not int:
        raise ValueError("it is no file of class statistics.")
    if facts["format_version"] > _FORMAT_VERSION:
        raise ValueError(f"it has format version {facts['format_version']}; this hf_cl reads up to {_FORMAT_VERSION}. Update hf_cl.")
    lists = {name: kind for name, kind in _TYPES.items() if kind}
    fits = [isinstance(facts.get(name), list) and all(type(entry) is kind for entry in facts[name]) for name, kind in lists.items()]
    fits += [type(facts.get("rank")) is int, type(facts.get("taken_with")) is str, type(facts.get("moved")) is bool]
    if not all(fits) or not set(facts["kinds"]) <= KINDS or len(set(facts["class_names"])) != len(facts["class_names"]):
        raise ValueError("its description is not what hf_cl writes.")
    return {name: facts[name] for name in _TYPES}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged file raises into a ValueError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as class statistics: {error}") from error
