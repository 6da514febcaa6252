"""results.json as text: written so that people can read it, and not believed when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hf_cl.hints import nearest

FORMAT_VERSION = 1
_NUMBERS = frozenset({int, float, type(None)})


def plain(value: Any) -> Any:
    """A record as a dict; matrices as they are, since a copy of each number of a long run takes seconds."""
    if isinstance(value, list):
        return [asdict(entry) if is_dataclass(entry) and not isinstance(entry, type) else entry for entry in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def text_of(value: Any, margin: str = "") -> str:
    """JSON with a line per entry, but lists of numbers on one line."""
    if isinstance(value, list | tuple) and value and not set(map(type, value)) <= _NUMBERS:
        entries, brackets = [text_of(entry, margin + " ") for entry in value], "[]"
    elif isinstance(value, dict) and value:
        brackets = "{}"
        entries = [f"{json.dumps(key, ensure_ascii=False)}: {text_of(entry, margin + ' ')}" for key, entry in value.items()]
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inside = f",\n{margin} ".join(entries)
    return f"{brackets[0]}\n{margin} {inside}\n{margin}{brackets[1]}"


def check_format(path: str | Path, values: Any) -> None:
    """Raise ValueError, naming the file, for what is no results.json of a version that is known."""
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected the keys of results.json.")
    found = values.get("format_version")
    if type(found) is not int:
        raise ValueError(f"{path}: format_version must be a whole number, got {found!r}.")
    if found > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {found}, this hf_cl reads up to {FORMAT_VERSION}; update hf_cl.")


def complaint(error: ValidationError, known: Sequence[str]) -> str:
    """The first one, with its key as people write it: sessions[2].num_train; `known` are the keys of the file."""
    first = error.errors()[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        message = f"unknown key.{nearest(key, known)}"
    return f"{key}: {message}" if key else message


def check_stored(key: str, stored: Any, computed: Any) -> None:
    """Stored numbers must be what the matrices give: nobody edits one without the other."""
    if isinstance(computed, Mapping) and isinstance(stored, Mapping):
        for name in sorted(stored.keys() | computed.keys()):
            if name not in stored or name not in computed:
                raise ValueError(f"{key}.{name}: {'missing' if name in computed else 'unknown name'}.")
            check_stored(f"{key}.{name}", stored[name], computed[name])
    elif isinstance(computed, Sequence) and isinstance(stored, Sequence) and len(stored) == len(computed):
        for j, (one, other) in enumerate(zip(stored, computed, strict=True)):
            check_stored(f"{key}[{j}]", one, other)
    elif not _equal(stored, computed):
        raise ValueError(f"{key} is {stored!r}, but the matrices give {computed!r}.")


def _equal(stored: Any, computed: Any) -> bool:
    if isinstance(stored, bool) or not isinstance(stored, int | float) or not isinstance(computed, int | float):
        return stored is computed  # None
    return abs(stored - computed) <= 1e-9  # NaN compares false
