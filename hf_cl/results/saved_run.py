"""A finished run, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_cl.errors import near_path
from hf_cl.results.composition import FILE as METHOD
from hf_cl.results.history import FILE as SESSIONS
from hf_cl.results.history import brought_up_to_date
from hf_cl.results.results import Results


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself."""

    folder: Path
    results: Results
    settings: Mapping[str, Any]
    """Every setting, resolved."""
    composition: Mapping[str, Any] = field(default_factory=dict)
    """What the method is made of; empty for a run of an earlier version."""

    @property
    def method(self) -> str:
        """The method's name in prose."""
        return self.results.method.title if self.results.method else "run without a method's name"


def read_run(folder: str | Path) -> Run:
    """Read `results.json`, `config.yaml` and, where it is there, `method.json` of a run.

    Raises ValueError, naming the folder or file, where there is no run or its files are not as hf_cl writes them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no run folder {str(folder)!r}.{near_path(folder)}")
    results, config = folder / "results.json", folder / "config.yaml"
    for path in (results, config):
        if not path.is_file():
            raise ValueError(f"{folder} has no {path.name}: it is no run folder, or its first session has not ended.")
    try:
        settings = yaml.safe_load(config.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config}: not valid YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{config}: expected keys and values, found {type(settings).__name__}.")
    read = brought_up_to_date(Results.load(results), folder / SESSIONS)
    return Run(folder, read, settings, _composition(folder / METHOD))


def run_of(adapter: Path) -> Path | None:
    """The run folder that this is, or that an adapter's folder belongs to; None where there is none."""
    whole = adapter.resolve()
    run = whole.parents[1] if whole.parent.name == "adapters" else whole
    return next((folder for folder in (adapter, run) if (folder / "results.json").is_file()), None)


def _composition(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {str(error).splitlines()[0]}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(found).__name__}.")
    return found
