"""The two files of an adapter as they come from a stranger: read without running anything, refused with a sentence that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftType
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

_NAMED = 3
"""Tensors that a message names; a damaged file may have hundreds."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, by its header: kind is "floating", "bool", or the dtype's own name."""

    shape: tuple[int, ...]
    kind: str


def check_folder(folder: str | Path) -> None:
    """Raise ValueError where a local folder holds no readable adapter_config.json, or tensors that are no whole safetensors file.

    A pickled adapter_model.bin is refused, not read.
    """
    read_config_values(Path(folder) / CONFIG_NAME)
    read_header(folder)


def read_config_values(file: Path) -> dict[str, Any]:
    """The keys of an adapter_config.json.

    Raises ValueError, naming the file, where it cannot be read, is no JSON object, or names no peft type that is known here.
    """
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be an adapter's config.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}, expected the keys of an adapter's config.")
    kind = values.get("peft_type")
    if not isinstance(kind, str) or kind not in PeftType.__members__:
        raise ValueError(f"{file}: peft_type is {str(kind)[:40]!r}, which neither peft nor hf_cl knows. Import the file that defines it.")
    return values


def read_header(folder: str | Path) -> dict[str, Entry] | None:
    """Name -> shape and kind of each tensor of adapter_model.safetensors; None where the folder has no tensors yet.

    Names are without peft's `base_model.model.`. Raises ValueError, naming the file, for one that is damaged, and for a pickled one alone.
    """
    file, pickled = Path(folder) / SAFETENSORS_WEIGHTS_NAME, Path(folder) / WEIGHTS_NAME
    if not file.exists():
        if pickled.exists():
            raise ValueError(
                f"{pickled} is a pickle, which can run code when it is read; ask for the adapter as {SAFETENSORS_WEIGHTS_NAME}."
            )
        return None
    try:
        with safe_open(file, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {bare(name): Entry(tuple(s.get_shape()), _kind(s.get_dtype())) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is no whole safetensors file: {error}.") from error


@contextmanager
def naming(folder: Path | None) -> Iterator[None]:
    """Put the adapter's folder in front of a ValueError that does not name it; nothing where there is no folder."""
    try:
        yield
    except ValueError as error:
        if folder is None or str(folder) in str(error):
            raise
        raise ValueError(f"{folder}: {error}") from error


def bare(name: str) -> str:
    """A tensor's name below the base model."""
    return name.removeprefix("base_model.model.")


def _kind(dtype: str) -> str:
    return "floating" if dtype.startswith(("F", "BF")) else dtype.lower()


def entries_of(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """The same of tensors in memory."""
    return {
        name: Entry(tuple(t.shape), "floating" if t.is_floating_point() else _SHORT.get(str(t.dtype), "")) for name, t in tensors.items()
    }


_SHORT = {"torch.bool": "bool", "torch.int32": "i32", "torch.int64": "i64", "torch.uint8": "u8"}


def check_entries(where: str, found: Mapping[str, Entry], expected: Mapping[str, Entry]) -> None:
    """Raise ValueError unless the file's tensors are those the adapter has, each of its shape and kind.

    peft itself would leave missing ones at random values with a warning, and drop those it does not know without a word.
    """
    _refuse(f"{where} lacks", expected.keys() - found.keys(), "the file is damaged, or its config belongs to another one")
    _refuse(f"{where} holds", found.keys() - expected.keys(), "the adapter that its config describes has no such tensors")
    for name in sorted(expected):
        if found[name] != expected[name]:
            raise ValueError(
                f"{where}: {name} is {_words(found[name])}; the adapter that its config describes has {_words(expected[name])}."
            )


def _refuse(what: str, names: Iterable[str], reason: str) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        raise ValueError(f"{what} {', '.join(name[:120] for name in listed[:_NAMED])}{more}: {reason}.")


def _words(entry: Entry) -> str:
    return f"{entry.kind} {list(entry.shape)}"
