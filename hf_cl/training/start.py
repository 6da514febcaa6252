"""A run that starts from an adapter: what that knew is session 0, which is measured and not trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn

from hf_cl.adapters import HeadedConfig
from hf_cl.backbones.loading import shared_name
from hf_cl.checkpoints.statistics_files import STATISTICS_FILE, SavedStatistics, load_statistics, restore_training_state
from hf_cl.contracts import Head, Method, Part
from hf_cl.heads import fits_itself
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.results.composition import adapter_record, first_difference


@dataclass(frozen=True)
class Start:
    """An adapter to go on from."""

    folder: Path
    class_names: tuple[str, ...]
    saved: SavedStatistics | None = None
    """What lies beside it of its classes, where that is needed."""

    def inject(self, backbone: nn.Module, name: str) -> PeftModel:
        """The base with the adapter inside, to be trained on."""
        device = str(next(backbone.parameters()).device)
        return PeftModel.from_pretrained(backbone, str(self.folder), name, is_trainable=True, torch_device=device)  # pyright: ignore

    def statistics(self, kinds: frozenset[str], head: Head) -> ClassStatistics:
        """Those of its classes, as if session 0 had counted them, and the head's own state that goes with them.

        Raises ValueError where they lack a kind of scatter, or do not fit the head.
        """
        if self.saved is None:
            return ClassStatistics(kinds)
        found = self.saved.statistics
        if lacking := sorted(kinds - found.kinds):
            raise ValueError(
                f"{self.folder / STATISTICS_FILE} has no scatters of the kind {lacking[0]!r}, which this head or method reads."
            )
        restore_training_state(head, self.saved.head, self.folder)
        found.restore(found.summary() | {"sessions": [0]}, found.moments)
        return found


def open_start(folder: Path, method: Method, backbone: str | None = None) -> Start:
    """The adapter in `folder`, for a run of `method` on the base that is called `backbone`.

    Raises ValueError where it is none of hf_cl with class names, where its base, type, head or another setting is not that of the run,
    where the method must have seen its sessions, and where class statistics are needed and are not there.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, HeadedConfig) or not config.class_names:
        raise ValueError(f"{folder} is no adapter with class names, so no run can start from it.")
    _check_same_adapter(folder, config, method)
    base = shared_name(config.base_model_name_or_path or "")  # pyright: ignore[reportAttributeAccessIssue]
    if base and backbone and base != backbone:
        raise ValueError(f"The adapter in {folder} was trained on the base {base}: give --backbone {base}.")
    check_needs(method, method.parts)
    needed = fits_itself(method.adapter.head) or any(part.statistics for part in method.parts)
    saved = None
    if needed:
        if not (folder / STATISTICS_FILE).is_file():
            raise ValueError(
                f"{folder} has no {STATISTICS_FILE}, and {method.name} fits its head to statistics of all classes: the run that trained "
                "the adapter writes them with --export_statistics. A head that trains (linear, cosine) needs none."
            )
        saved = load_statistics(folder)
        if [*saved.class_names] != config.class_names:
            raise ValueError(f"{folder / STATISTICS_FILE} is of other classes than the adapter.")
    return Start(folder, tuple(config.class_names), saved)


def check_needs(method: Method, parts: Iterable[Part]) -> None:
    """Raise ValueError for something of a run that must have seen the sessions of the adapter it would start from."""
    missing = [f"{type(part).__name__}: {part.needs_first_session}" for part in parts if part.needs_first_session]
    if missing:
        raise ValueError(f"{method.name} cannot start from an adapter. {missing[0]}. Go on with its run by --resume auto.")


def _check_same_adapter(folder: Path, config: HeadedConfig, method: Method) -> None:
    there, here = adapter_record(config), adapter_record(method.adapter)
    heads = there.get("head") or {}, here.get("head") or {}
    filled_in = {"text_width", "num_targets"} - heads[1].keys()  # by the loop
    there["head"] = {name: value for name, value in heads[0].items() if name not in filled_in}
    if there["type"] != here["type"]:
        raise ValueError(f"{folder} is an adapter of type {there['type']}, and {method.name} trains {here['type']}.")
    difference = first_difference(there, here)
    if difference is not None:
        path, theirs, ours = difference
        raise ValueError(
            f"The adapter in {folder} has {path} {theirs!r}, and these settings say {ours!r}: give those that it was trained with."
        )
