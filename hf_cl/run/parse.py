"""Settings from a config and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from hf_cl.hints import refuse
from hf_cl.run.configs import read_config
from hf_cl.run.elsewhere import setting_hint
from hf_cl.run.yaml_values import brief, yaml_value
from hf_cl.settings import RunSettings

SettingsT = TypeVar("SettingsT", bound=RunSettings)
SPELLED = {"import": "imports"}
"""Flags whose setting has another name, since Python keeps theirs for itself."""
REPEATED = ("imports",)
"""Lists whose flag may stand several times."""
_EXAMPLES = {
    "memory": "{type: exemplars, per_class: 20}",
    "adapter": "{type: lora, r: 4}",
    "losses": "{l2_anchor: {weight: 1.0}}",
    "probes": "{novelty: {}}",
    "protocol_options": "{num_sessions: 5}",
}
"""What a message shows of a setting that is a dict."""


def parse_settings(settings_class: type[SettingsT], method: str, arguments: Sequence[str]) -> SettingsT:
    """Settings from `--config NAME_OR_FILE` and overriding `--key value` flags; dashes in keys are accepted.

    `NAME` is a packaged config of the method (`hf_cl/configs/<method>/NAME.yaml`). `none` is no config. Where a
    setting is a dict with a `type`, the type alone is short for it: `--head prototype`.

    Raises ValueError with all that is wrong: unknown keys (with the nearest known one), values of the wrong type, or a file that is not
    there.
    """
    flags = parse_flags(arguments)
    config = flags.pop("config", None)
    if config is None and any(argument.split("=")[0] == "--config" for argument in arguments):
        raise ValueError("--config needs the name of a config or a file.")
    values = read_config(method, str(config)) if config not in (None, "none") else {}
    where = dict.fromkeys(values, f"config {config}") | {key: f"--{_flag(key)}" for key in flags}
    values |= flags
    return settings_of(settings_class, values, where)


def settings_of(settings_class: type[SettingsT], values: Mapping[str, Any], where: Mapping[str, str]) -> SettingsT:
    """Settings from values by their names; `where` says for messages where each of them stands.

    Raises ValueError with all that is wrong.
    """
    known = {f.name: str(f.type) for f in fields(settings_class)}
    faults = [f"Unknown setting {brief(key)} ({where[key][:200]}).{setting_hint(key, known)}" for key in values if key not in known]
    typed = {key: _spelled_out(value, known[key]) for key, value in values.items() if key in known}
    try:
        settings = TypeAdapter(settings_class).validate_python(typed)
    except ValidationError as error:
        refuse([*faults, *_complaints(error, where)])
        raise
    refuse(faults)
    return settings


def _spelled_out(value: Any, annotation: str) -> Any:
    """What short forms stand for: `tensorboard,wandb` for a list, `prototype` for a dict with a type; and the word no, which YAML takes
    for false."""
    if value is False and "'no'" in annotation:
        return "no"
    if not isinstance(value, str):
        return value
    if annotation.startswith("list[str]"):
        return [part.strip() for part in value.split(",")]
    if annotation.startswith("dict[str, Any]") and value.isidentifier():
        return {"type": value}
    if annotation.startswith("dict[str, dict") and all(part.strip().isidentifier() for part in value.split(",")):
        return {part.strip(): {} for part in value.split(",")}
    return value


def _complaints(error: ValidationError, where: Mapping[str, str]) -> list[str]:
    """A sentence for each setting that has a value of the wrong type, or those the settings raise."""
    said: dict[str, str] = {}
    for each in error.errors(include_url=False):
        key = str(each["loc"][0]) if each["loc"] else ""
        said.setdefault(key, _complaint(each, where.get(key, f"--{key}")))
    return [*said.values()]


def _complaint(each: ErrorDetails, place: str) -> str:
    if not each["loc"]:
        return each["msg"].removeprefix("Value error, ")
    example = _EXAMPLES.get(str(each["loc"][0]), "{type: prototype}")
    wanted = f"expected a name, or keys and values in braces such as '{example}'" if each["type"] == "dict_type" else each["msg"]
    return f"{place}: {wanted}, got {brief(each['input'])}."


def _flag(key: str) -> str:
    return next((flag for flag, name in SPELLED.items() if name == key), key)


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """Setting -> value, of `--key value`, `--key=value` and `--key` (true).

    Raises ValueError with every argument that is no flag, and for a value that is no YAML.
    """
    flags: dict[str, Any] = {}
    position, strays = 0, []
    while position < len(arguments):
        flag = arguments[position]
        position += 1
        if not flag.startswith("--"):
            strays.append(f"Expected a flag like --key value, got {brief(flag)}.")
            continue
        key, equals, text = flag[2:].partition("=")
        has_value = position < len(arguments) and not arguments[position].startswith("--")
        if not equals and has_value:
            text = arguments[position]
            position += 1
        elif not equals:
            text = "true"
        name = SPELLED.get(key.replace("-", "_"), key.replace("-", "_"))
        value = yaml_value(text, flag)
        flags[name] = [*flags.get(name, []), *str(value).split(",")] if name in REPEATED else value
    refuse(strays)
    return flags
