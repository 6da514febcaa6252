"""What a method is made of, in plain values: `method.json` of a run folder.

Settings say it for methods that are started by a command. A composition made in Python has no settings: its losses, rule and adapter are
told apart by this file when a run is resumed or compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_cl.contracts import LossTerm, Method, Part, Phase

FILE = "method.json"
FILLED_IN = frozenset(
    {
        "class_names",
        "classes_per_session",
        "base_model_name_or_path",
        "base_signature",
        "auto_mapping",
        "inference_mode",
        "revision",
        "small",
    }
    | {"nnz_pattern", "weight_shapes", "task_type", "peft_version", "format_version", "has_inactive", "unfrozen", "init_token_ids"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "prompt_depth", "temperature", "domains"}
)
"""Fields of an adapter's config that injection or training writes (a method that is used again has them filled), and versions."""


def composition(method: Method, phases: Sequence[Sequence[Phase]]) -> dict[str, Any]:
    """Adapter, rule, parts and the `phases` of each session; equal ones of consecutive sessions stand once, under the first one.

    Of a part its type and its public plain attributes count. What only code says, such as the body of a loss, cannot be seen.
    """
    changes: dict[str, Any] = {}
    for number, of_session in enumerate(phases):
        found = [_phase(phase) for phase in of_session]
        if not changes or found != [*changes.values()][-1]:
            changes[f"from session {number}"] = found
    described = {
        "name": method.name,
        "adapter": _adapter(method.adapter),
        "rule": _part(method.rule),
        "parts": [_part(part) for part in method.parts],
        "memory": None if method.memory is None else _part(method.memory),
        "max_grad_norm": method.max_grad_norm,
        "sessions": len(phases),
        "phases": changes,
    }
    return json.loads(json.dumps(described))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """What a run may not resume with: `first_difference`, but for sessions that the run did not have and that have come since."""
    held = before.get("sessions", 0)
    known = {key: value for key, value in now.get("phases", {}).items() if int(key.rpartition(" ")[2]) < held}
    return first_difference(before, {**now, "sessions": held, "phases": known})


def first_difference(before: Any, now: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Where two compositions differ first: the path, and both values; None for what one of them lacks."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        pairs = [(f"{path}.{key}" if path else str(key), before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(before, now, strict=True))]
    else:
        return None if before == now else (path, before, now)
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name)) is not None), None)


def _phase(phase: Phase) -> dict[str, Any]:
    losses = {term.name: {"weight": _plain(term.weight), **_part(term)} for term in phase.losses}
    several = {"updates_per_batch": phase.updates_per_batch} if phase.updates_per_batch > 1 else {}
    about = {"name": phase.name, "epochs": phase.epochs, "inputs": phase.inputs, "batch_size": phase.batch_size}
    return {**about, **several, "losses": losses}


_NOT_MADE_OF = ("name", "weight", "training", "new_classes_only", "needs_first_session")


def _part(part: Part | LossTerm) -> dict[str, Any]:
    public = {name: value for name, value in vars(part).items() if not name.startswith("_") and name not in _NOT_MADE_OF}
    return {"type": type(part).__name__, **{name: _plain(value) for name, value in public.items() if _is_plain(value)}}


def adapter_record(config: Any) -> dict[str, Any]:
    """The type, and the fields that hold plain values and that only the user sets, as JSON gives them back."""
    return json.loads(json.dumps(_adapter(config)))


def _adapter(config: Any) -> dict[str, Any]:
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in FILLED_IN}
    plain = {name: _plain(value) for name, value in values.items() if _is_plain(value)}
    return {"type": config.peft_type.value, **{name: value for name, value in plain.items() if name != "peft_type"}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(entry) for entry in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str | Enum) or callable(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(entry) for entry in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    return _name(value) if callable(value) else value


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
