"""What is searched: settings with their ranges, points of the box, and how far a point is from the base.

A setting may lie inside another one that is a dict: `head.shrinkage`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from hf_cl.hints import nearest, refuse
from hf_cl.run.yaml_values import yaml_value
from hf_cl.settings import MAY_CHANGE_ON_RESUME, RunSettings
from hf_cl.tuning.arguments import split

Values = dict[str, Any]
"""Setting -> value: one point."""

PROTOCOL = frozenset(
    {
        *("dataset", "image_column", "label_column", "test_split", "skip_bad_images", "check_images", "protocol", "protocol_options"),
        *("num_base_classes", "classes_per_session", "class_order", "class_order_seed", "shots", "index_list", "targets", "start_from"),
        *("session_from", "validation_fraction", "test_on", "max_sessions", "exclude"),
    }
)
"""Settings that say which images and classes there are."""
DECAYS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The ladder of `weight_decay`."""
RANKS = (2, 4, 8, 16)
USUAL = ("learning_rate", "weight_decay")
"""What is searched where nothing is named."""


@dataclass(frozen=True)
class Range:
    """Values of one setting: from `low` to `high`, or the `choices`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether neighbours are alike: choices that are numbers are searched by their places."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.choices)

    def at(self, position: float) -> Any:
        """The value at a position from 0 to 1."""
        if self.choices:
            return self.choices[min(int(position * len(self.choices)), len(self.choices) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + position * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + position * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.4g}")

    def position(self, value: Any) -> float:
        """Where a value lies; outside of [0, 1] beyond the ends."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ends(self) -> list[Any]:
        """Values that a setting's own limits are asked about."""
        return list(self.choices) or [self.at(0.0), self.at(1.0)]

    def distance(self, value: Any, base: Any) -> float:
        """How far a value is from the base's, the whole range being 1."""
        if value == base:
            return 0.0
        number = isinstance(base, int | float) and not isinstance(base, bool) and (base > 0 or not self.log)
        if not number or (self.choices and not (self.ordered and base in self.choices)):
            return 1.0
        return abs(self.position(value) - self.position(base))


@dataclass(frozen=True)
class Space:
    """The box."""

    ranges: tuple[Range, ...]
    base: Values
    """The values that the base has."""

    def distance(self, values: Values) -> float:
        """How much of a change from the base a point is: the sum over its settings."""
        return sum(one.distance(values[one.name], self.base[one.name]) for one in self.ranges)

    def described(self) -> dict[str, Any]:
        """In values that JSON can hold."""
        return {one.name: list(one.choices) or [one.low, one.high, "log" if one.log else "linear"] for one in self.ranges}


def space_of(settings: RunSettings, over: Sequence[str]) -> Space:
    """The box of `--over NAME`, `NAME=LOW:HIGH[:log]` and `NAME=a,b,c` around the base's settings.

    Raises ValueError with all that is wrong: settings there are not (with the nearest one), settings of the data or the stream, a seed,
    what changes no result, and ranges that are none.
    """
    wanted = list(over) or [name for name in USUAL if getattr(settings, name, None) is not None]
    if not wanted:
        raise ValueError("Nothing to tune: the method has neither learning_rate nor weight_decay. Name settings by --over NAME=LOW:HIGH.")
    ranges, faults = [], []
    for text in wanted:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        try:
            _check_name(settings, name)
            base = value_of(settings, name)
            ranges.append(_range(name, values) if equals else _usual_range(name, base))
        except ValueError as error:
            faults.append(str(error))
    twice = sorted({one.name for one in ranges if [other.name for other in ranges].count(one.name) > 1})
    faults += [f"--over names {name} twice." for name in twice]
    refuse(faults)
    return Space(tuple(ranges), {one.name: value_of(settings, one.name) for one in ranges})


def value_of(settings: RunSettings, name: str) -> Any:
    """The value of a setting; None where a dict has no such key."""
    first, *inside = name.split(".")
    value = getattr(settings, first)
    for key in inside:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def flags_of(settings: RunSettings, values: Values) -> list[str]:
    """`--setting value` of a point; a dict is given whole."""
    import yaml  # noqa: PLC0415

    whole: dict[str, Any] = {}
    for name, value in values.items():
        first, *inside = name.split(".")
        if not inside:
            whole[first] = value
            continue
        within = whole.setdefault(first, deepcopy(getattr(settings, first)))
        for key in inside[:-1]:
            within = within.setdefault(key, {})
        if value is None:  # the base has no such key
            within.pop(inside[-1], None)
        else:
            within[inside[-1]] = value
    flags = []
    for name, value in whole.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        flags.append(f"--{name}={text}")
    return flags


def _check_name(settings: RunSettings, name: str) -> None:
    first, *inside = name.split(".")
    known = [field.name for field in fields(settings)]
    if first not in known:
        raise ValueError(f"--over: unknown setting {first!r}.{nearest(first, known)}")
    if first in PROTOCOL:
        raise ValueError(f"--over {first}: it says which images there are, so values of it cannot be compared by accuracy.")
    if first == "seed":
        raise ValueError("--over seed: the best of several seeds is the luckiest one; `--seeds 3` takes the mean of three.")
    if first in MAY_CHANGE_ON_RESUME:
        raise ValueError(f"--over {first}: it changes no result.")
    value = getattr(settings, first)
    if inside and not isinstance(value, Mapping):
        raise ValueError(f"--over {name}: {first} is no dict here, but {value!r}.")


def _range(name: str, text: str) -> Range:
    low, colon, rest = text.partition(":")
    if not colon:
        choices = tuple(yaml_value(part, f"--over {name}") for part in split(text))
        if len(set(map(repr, choices))) < 2:
            raise ValueError(f"--over {name}={text}: a search needs two values, or LOW:HIGH.")
        return Range(name, choices=choices)
    high, _, kind = rest.partition(":")
    ends = [yaml_value(part, f"--over {name}") for part in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends) or kind not in ("", "log"):
        raise ValueError(f"--over {name}={text}: a range is LOW:HIGH or LOW:HIGH:log, with numbers.")
    if not ends[0] < ends[1] or (kind and ends[0] <= 0):
        raise ValueError(f"--over {name}={text}: LOW lies below HIGH{', and above 0 where it is log' if kind else ''}.")
    return Range(name, *map(float, ends), log=bool(kind), whole=all(isinstance(end, int) for end in ends))


def _usual_range(name: str, base: Any) -> Range:
    """The range of a setting that was named alone. Raises ValueError for one that has none."""
    last = name.rsplit(".", maxsplit=1)[-1]
    if isinstance(base, Mapping):
        keys = ", ".join(f"{name}.{key}" for key in base if key != "type") or f"{name}.KEY"
        raise ValueError(
            f"--over {name} has settings of its own; name one of them, such as {keys}, with what it may be: =LOW:HIGH or =a,b,c."
        )
    if last == "weight_decay":
        return Range(name, choices=tuple(sorted({*DECAYS, *([float(base)] if base is not None else [])})))
    if last == "r":
        return Range(name, choices=tuple(sorted({*RANKS, *([base] if base else [])})))
    if last.endswith("dropout"):
        return Range(name, 0.0, 0.5)
    if last.endswith("learning_rate") and base:
        return Range(name, base / 10, base * 10, log=True)
    if last.endswith("epochs") and isinstance(base, int) and base > 1:
        return Range(name, max(1, math.ceil(base / 4)), base, whole=True)
    if last == "weight" or last.endswith("_weight"):
        return Range(name, 1e-2, 1e2, log=True)
    raise ValueError(f"--over {name}: say between which values, {name}=LOW:HIGH, {name}=LOW:HIGH:log or {name}=a,b,c.")
