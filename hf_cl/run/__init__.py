"""What the recipes and the command line share: settings from YAML and flags, and a run from settings to report, card and Hub."""

from hf_cl.run.configs import CONFIGS, config_names, read_config
from hf_cl.run.describe import describe, setting_docs
from hf_cl.run.launch import launch, quiet_libraries
from hf_cl.run.open import open_base, open_scenario
from hf_cl.run.parse import parse_settings
from hf_cl.run.runs import run, train
from hf_cl.run.trainer import ContinualTrainer

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
