"""What stands behind `hf-cl sweep`: methods, the axes of the study, the engine, and flags that all runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LISTS = ("--seeds", "--class_orders", "--grid", "--option")
SINGLE = ("--jobs", "--engine", "--output_dir")


@dataclass
class Arguments:
    """The command line, taken apart."""

    methods: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    class_orders: list[int] = field(default_factory=list)
    grid: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 1
    engine: str = "local"
    options: dict[str, Any] = field(default_factory=dict)
    output_dir: Path = Path("runs/study")
    status: bool = False
    flags: list[str] = field(default_factory=list)
    """Of the runs: what is none of the study's own."""


def parse(arguments: Sequence[str]) -> Arguments:
    """Raises ValueError for what is no list of methods and flags."""
    found, position = Arguments(), 0
    while position < len(arguments) and not arguments[position].startswith("--"):
        found.methods.append(arguments[position])
        position += 1
    while position < len(arguments):
        flag, equals, text = arguments[position].partition("=")
        flag = flag.replace("-", "_").replace("__", "--", 1)
        end = position + 1
        while not equals and end < len(arguments) and not arguments[end].startswith("--"):
            end += 1
        _take(found, flag, [text] if equals else list(arguments[position + 1 : end]))
        position = end
    return found


def _take(found: Arguments, flag: str, values: list[str]) -> None:
    if flag == "--status":
        found.status = True
    elif (flag in LISTS and not values) or (flag in SINGLE and len(values) != 1):
        raise ValueError(f"{flag} needs {'values' if flag in LISTS else 'one value'}.")
    elif flag in ("--seeds", "--class_orders"):
        getattr(found, flag[2:]).extend(_whole(flag, one) for value in values for one in value.split(","))
    elif flag == "--grid":
        found.grid |= {key: split(text) for key, text in (_pair(flag, value) for value in values)}
    elif flag == "--option":
        found.options |= {key: yaml.safe_load(text) for key, text in (_pair(flag, value) for value in values)}
    elif flag == "--jobs":
        found.jobs = max(1, _whole(flag, values[0]))
    elif flag == "--engine":
        found.engine = values[0]
    elif flag == "--output_dir":
        found.output_dir = Path(values[0])
    elif len(values) > 1:
        raise ValueError(f"{flag} has one value in a study, got {' '.join(values)}; several are --grid {flag[2:]}={','.join(values)}.")
    else:
        found.flags += [flag, *values]


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{flag} takes whole numbers, got {text!r}.") from error


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{flag} takes KEY=VALUE, got {text!r}.")
    return key.replace("-", "_"), value


def split(text: str) -> list[str]:
    """At commas outside of brackets: a dict is one value."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
