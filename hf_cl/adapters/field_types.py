"""Fields of a config against their annotations: a config may come from a stranger's JSON, and peft's dataclasses check nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from hf_cl.hints import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_LARGEST = 2**63 - 1
"""What torch's own integers hold."""


def check_types(config: Any) -> None:
    """Raise ValueError, naming the field, where a value is not of the field's type.

    Values are judged by the JSON they are saved as: tuples and sets are lists, numbers as keys are strings. Numbers must be finite. A word
    that is none of a field's choices is left to the config, which knows the nearest one; a field's default is always fine.
    """
    from pydantic import ValidationError  # noqa: PLC0415 (half a second that `import hf_cl` need not wait for)
    from pydantic_core import to_json  # noqa: PLC0415

    values = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) is not f.default}
    for name, value in values.items():
        if any(abs(number) > _LARGEST for number in _whole_numbers(value)):
            raise ValueError(f"{name} cannot be {brief(value)}: it is too large a number.")
    try:
        _model(type(config)).model_validate_json(to_json(values, inf_nan_mode="constants", fallback=str))
    except ValidationError as error:
        wrong = _first(error, values)
        if wrong:
            raise ValueError(wrong) from error


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _whole_numbers(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _whole_numbers(entry)


@cache
def _model(config_class: type) -> type[BaseModel]:
    from pydantic import ConfigDict, Field, create_model  # noqa: PLC0415

    hints = get_type_hints(config_class)
    known: dict[str, Any] = {f"field_{f.name}": (hints[f.name], Field(default=None, alias=f.name)) for f in fields(config_class)}
    return create_model(config_class.__name__, __config__=ConfigDict(strict=True, allow_inf_nan=False), **known)


def _first(error: ValidationError, values: Mapping[str, Any]) -> str | None:
    complaints = error.errors(include_url=False, include_context=False)
    choices = {each["loc"][0] for each in complaints if each["type"] == "literal_error"}
    for each in complaints:
        name = str(each["loc"][0])
        if name not in choices or not isinstance(values[name], str):
            return f"{name} cannot be {brief(values[name])}: {each['msg'][0].lower()}{each['msg'][1:]}."
    return None


def check_pattern(name: str, pattern: object) -> None:
    """Raise ValueError where a string that peft reads as a regular expression is none."""
    if not isinstance(pattern, str):
        return
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{name} is read as a regular expression, and {brief(pattern)} is none: {error}.") from error


def check_count(name: str, value: int, limit: int, what: str) -> None:
    """Raise ValueError for a size far beyond use: a config of a stranger must not ask for more memory than there is."""
    if value > limit:
        raise ValueError(f"{name} is {brief(value)}; more than {limit} is {what}.")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError, with the nearest one, where a word is none of a field's choices."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {brief(value)}.{nearest(value, allowed)}")


def brief(value: object, limit: int = 80) -> str:
    """`repr` for a message: cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no numbers of more than 4300 digits
        return "a number too long to print"
    return text if len(text) <= limit else f"{text[:limit]}..."
