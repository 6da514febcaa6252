"""The configs in the package, and those of users: YAML files with values of settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_cl.hints import nearest
from hf_cl.run.yaml_values import NO_YAML, UniqueKeys, number

CONFIGS = Path(__file__).parents[1] / "configs"
"""The folder of the packaged configs: a folder per method, a YAML file per config."""


def config_names(method: str) -> list[str]:
    """Names of a method's packaged configs."""
    return sorted(path.stem for path in (CONFIGS / method).glob("*.yaml"))


def read_config(method: str, name: str) -> dict[str, Any]:
    """Values of a YAML file, or of the method's packaged config of that name.

    Raises ValueError where there is none, or where the file is no mapping.
    """
    packaged = config_names(method)
    path = CONFIGS / method / f"{name}.yaml" if name in packaged else Path(name)
    shown = f"--config {name[:200]}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{shown}: no such file, and {method} has no config of that name; it has {', '.join(packaged) or 'none'}."
            f"{nearest(name, packaged)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{shown} is no text file in UTF-8.") from error
    try:
        values = UniqueKeys(text).get_single_data()
    except NO_YAML as error:
        raise ValueError(f"{shown}: not valid YAML: {(str(error) or type(error).__name__).splitlines()[0]}.") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown}: expected keys and values, found {type(values).__name__}.")
    return {str(key): number(value) for key, value in values.items()}
