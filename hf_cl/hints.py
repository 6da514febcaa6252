"""What a message says to somebody who mistyped a name, and parts made by their names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

Made = TypeVar("Made")
MANY = 8
"""Faults that are shown at once."""


def nearest(name: object, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for a mistyped name, or nothing where no known one is near."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def build(
    what: str, registry: Mapping[str, Callable[..., Made]], spec: Mapping[str, Any], *, given: Mapping[str, Any] | None = None
) -> Made:
    """The part that `spec` describes: `{"type": "sam", "rho": 0.05}`, settings of the type beside it.

    Args:
        what: the kind of part, for messages: "loss", "rule", ...
        registry: type -> what makes it.
        spec: `type` (a key of the registry) and settings of that type.
        given: what the maker gets from elsewhere, and no spec may set.

    Raises ValueError, with all that is wrong, for a spec without a type, an unknown type, an unknown setting and a value of another type;
    and what the maker raises.
    """
    given = given or {}
    refuse(faults_of(what, registry, spec, given=given))
    settings = {name: value for name, value in spec.items() if name != "type"}
    return registry[spec["type"]](**given, **settings)


def refuse(faults: Collection[str]) -> None:
    """Raise ValueError with all faults, one a line, if there are any; of more than eight, with the first eight and how many follow."""
    shown = [*faults][:MANY]
    if len(faults) > MANY:
        shown.append(f"And {len(faults) - MANY} more.")
    if shown:
        raise ValueError("\n".join(shown))


def faults_of(
    what: str,
    registry: Mapping[str, Callable[..., Any]],
    spec: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    also: Collection[str] = (),
) -> list[str]:
    """What is wrong with a spec, a sentence each; nothing is made. `also` are types that are known and are made elsewhere."""
    kind = spec.get("type")
    if kind is None:
        return [f"The {what} {dict(spec)} has no type; give one of {', '.join([*registry, *also])}."]
    if kind in also:
        return []
    if kind not in registry:
        known = [*registry, *also]
        return [
            f"Unknown {what} type {kind!r}; this process knows {', '.join(known)}.{nearest(kind, known)} "
            f"Where the {what} is one of your own, import its file."
        ]
    make = registry[kind]
    settings = {name: value for name, value in spec.items() if name != "type"}
    taken = inspect.signature(make).parameters
    starred = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = [name for name in taken if name not in given and taken[name].kind not in starred]
    has = f"it has {', '.join(known)}" if known else "it has none"
    faults = [
        f"{what.capitalize()} type {kind!r} has no setting {name!r}; {has}.{nearest(name, known)}" for name in settings if name not in known
    ]
    needed = [name for name in known if taken[name].default is inspect.Parameter.empty]
    faults += [f"{what.capitalize()} type {kind!r} needs {name}." for name in needed if name not in settings]
    typed = {name: value for name, value in settings.items() if name in known}
    return faults + [f"{what.capitalize()} type {kind!r}: {fault}" for fault in _values_of_another_type(make, typed)]


def _values_of_another_type(make: Callable[..., Any], settings: Mapping[str, Any]) -> list[str]:
    """Values that do not fit the annotations of the maker's parameters. A dataclass looks at its own fields."""
    if is_dataclass(make) or not settings:
        return []
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # noqa: PLC0415 (what most processes never need)

    try:
        parameters = inspect.signature(make, eval_str=True).parameters
    except NameError:  # an annotation that only a type checker can read
        return []
    faults = []
    for name, value in settings.items():
        if parameters[name].annotation is inspect.Parameter.empty:
            continue
        try:
            TypeAdapter(parameters[name].annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]["msg"]
            faults.append(f"{name}: {wrong[0].lower()}{wrong[1:]}, got {value!r}.")
    return faults
