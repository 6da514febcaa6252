"""What the recipes and the command line share: settings from YAML and flags, and a run from settings to report, card and Hub.

What reads settings needs no torch and is imported here; what opens and trains comes when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_cl.run.configs import CONFIGS, config_names, read_config
from hf_cl.run.describe import describe, setting_docs
from hf_cl.run.launch import launch, quiet_libraries
from hf_cl.run.parse import parse_settings

if TYPE_CHECKING:
    from hf_cl.run.open import open_base, open_scenario
    from hf_cl.run.runs import run, train
    from hf_cl.run.trainer import ContinualTrainer

_LATER = {"open_base": "open", "open_scenario": "open", "run": "runs", "train": "runs", "ContinualTrainer": "trainer"}

__all__ = [
    "CONFIGS",
    "ContinualTrainer",
    "config_names",
    "describe",
    "launch",
    "open_base",
    "open_scenario",
    "parse_settings",
    "quiet_libraries",
    "read_config",
    "run",
    "setting_docs",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"hf_cl.run.{_LATER[name]}"), name)
    raise AttributeError(f"module 'hf_cl.run' has no attribute {name!r}")
