"""hf_cl: adapters and recipes that teach image classifiers classes which keep arriving.

Importing it registers the adapter types in peft, so that `PeftModel.from_pretrained` and transformers' `load_adapter` know them. It reads
no network and no data set, and starts no device.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_cl import heads, losses, methods, metrics, rules, scenarios
    from hf_cl.adapters import (
        AsyncLoraConfig,
        AsyncLoraModel,
        CompanderConfig,
        CompanderModel,
        CPEClipConfig,
        CPEClipModel,
        DstConfig,
        DstModel,
        GladConfig,
        GladModel,
        HyperLoraConfig,
        HyperLoraModel,
        LowRankConfig,
        LowRankModel,
        MaskTuningConfig,
        MaskTuningModel,
        OnePromptConfig,
        OnePromptModel,
        PromptPoolConfig,
        PromptPoolModel,
        SaraConfig,
        SaraModel,
        SessionNormConfig,
        SessionNormModel,
    )
    from hf_cl.adapters.sara import sara_lr
    from hf_cl.adapters.text_logits import set_tokenizer
    from hf_cl.backbones import load_backbone, load_processor
    from hf_cl.hub.load import load
    from hf_cl.hub.push import push_to_hub
    from hf_cl.run import ContinualTrainer
    from hf_cl.settings import TrainingSettings

__version__ = "0.1.0"

_ADAPTERS = (
    *("AsyncLoraConfig", "AsyncLoraModel", "CPEClipConfig", "CPEClipModel", "GladConfig", "GladModel"),
    *("HyperLoraConfig", "HyperLoraModel"),
    *("SessionNormConfig", "SessionNormModel"),
    *("CompanderConfig", "CompanderModel"),
    *("MaskTuningConfig", "MaskTuningModel"),
    *("DstConfig", "DstModel"),
    *("LowRankConfig", "LowRankModel"),
    *("OnePromptConfig", "OnePromptModel", "PromptPoolConfig", "PromptPoolModel", "SaraConfig", "SaraModel"),
)
_LAZY = {
    **dict.fromkeys(_ADAPTERS, "hf_cl.adapters"),
    "ContinualTrainer": "hf_cl.run",
    "TrainingSettings": "hf_cl.settings",
    "load": "hf_cl.hub.load",
    "load_backbone": "hf_cl.backbones",
    "load_processor": "hf_cl.backbones",
    "push_to_hub": "hf_cl.hub.push",
    "sara_lr": "hf_cl.adapters.sara",
    "set_tokenizer": "hf_cl.adapters.text_logits",
}
_LAZY_MODULES = ("heads", "losses", "methods", "metrics", "rules", "scenarios")

__all__ = [
    "AsyncLoraConfig",
    "AsyncLoraModel",
    "CPEClipConfig",
    "CPEClipModel",
    "CompanderConfig",
    "CompanderModel",
    "ContinualTrainer",
    "DstConfig",
    "DstModel",
    "GladConfig",
    "GladModel",
    "HyperLoraConfig",
    "HyperLoraModel",
    "LowRankConfig",
    "LowRankModel",
    "MaskTuningConfig",
    "MaskTuningModel",
    "OnePromptConfig",
    "OnePromptModel",
    "PromptPoolConfig",
    "PromptPoolModel",
    "SaraConfig",
    "SaraModel",
    "SessionNormConfig",
    "SessionNormModel",
    "TrainingSettings",
    "heads",
    "load",
    "load_backbone",
    "load_processor",
    "losses",
    "methods",
    "metrics",
    "push_to_hub",
    "rules",
    "sara_lr",
    "scenarios",
    "set_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"hf_cl.{name}")
    raise AttributeError(f"module 'hf_cl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if "hf_cl_command" not in sys.modules:  # `hf-cl --help` does not wait for torch; subcommands import what they use
    importlib.import_module("hf_cl.adapters")
