"""Settings from a config and flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hf_cl.hints import nearest
from hf_cl.run.configs import read_config
from hf_cl.run.yaml_values import brief, yaml_value
from hf_cl.settings import RunSettings

SettingsT = TypeVar("SettingsT", bound=RunSettings)


def parse_settings(settings_class: type[SettingsT], method: str, arguments: Sequence[str]) -> SettingsT:
    """Settings from `--config NAME_OR_FILE` and overriding `--key value` flags; dashes in keys are accepted.

    `NAME` is a packaged config of the method (`hf_cl/configs/<method>/NAME.yaml`).

    Raises ValueError for an unknown key (with the nearest known one), a value of the wrong type, or a file that is not there.
    """
    flags = _parse_flags(arguments)
    config = flags.pop("config", None)
    if config is None and any(argument.split("=")[0] == "--config" for argument in arguments):
        raise ValueError("--config needs the name of a config or a file.")
    values = read_config(method, str(config)) if config is not None else {}
    where = dict.fromkeys(values, f"config {config}") | {key: f"--{key}" for key in flags}
    values |= flags
    known = {f.name: str(f.type) for f in fields(settings_class)}
    for key in values:
        if key not in known:
            raise ValueError(f"Unknown setting {brief(key)} ({where[key][:200]}).{nearest(key, known)}")
        if known[key].startswith("list[str]") and isinstance(values[key], str):
            values[key] = [part.strip() for part in values[key].split(",")]  # --report_to tensorboard,wandb
    try:
        return TypeAdapter(settings_class).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ValueError(first["msg"].removeprefix("Value error, ")) from error
        key = str(first["loc"][0])
        wanted = "expected keys and values in braces, such as '{type: prototype}'" if first["type"] == "dict_type" else first["msg"]
        raise ValueError(f"{where.get(key, key)}: {wanted}, got {brief(first['input'])}.") from error


def _parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        flag = arguments[position]
        if not flag.startswith("--"):
            raise ValueError(f"Expected a flag like --key value, got {brief(flag)}.")
        key, equals, text = flag[2:].partition("=")
        has_value = position + 1 < len(arguments) and not arguments[position + 1].startswith("--")
        if not equals and has_value:
            position += 1
            text = arguments[position]
        elif not equals:
            text = "true"
        flags[key.replace("-", "_")] = yaml_value(text, flag)
        position += 1
    return flags
