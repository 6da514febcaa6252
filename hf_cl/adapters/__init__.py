"""The adapter types of hf_cl. Importing this package registers them in peft."""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.adapters.async_lora import AsyncLoraConfig, AsyncLoraModel
from hf_cl.adapters.compander import CompanderConfig, CompanderModel
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.cpe_clip import CPEClipConfig, CPEClipModel
from hf_cl.adapters.dst import DstConfig, DstModel
from hf_cl.adapters.glad import GladConfig, GladModel, plain_lora
from hf_cl.adapters.hyper_lora import HyperLoraConfig, HyperLoraModel
from hf_cl.adapters.low_rank import LowRankConfig, LowRankModel
from hf_cl.adapters.mask_tuning import MaskTuningConfig, MaskTuningModel
from hf_cl.adapters.one_prompt import OnePromptConfig, OnePromptModel
from hf_cl.adapters.prompt_pool import PromptPoolConfig, PromptPoolModel
from hf_cl.adapters.sara import SaraConfig, SaraModel
from hf_cl.adapters.session_norm import SessionNormConfig, SessionNormModel

ADAPTERS: dict[str, Callable[..., HeadedConfig]] = {
    "one_prompt": OnePromptConfig,
    "cpe_clip": CPEClipConfig,
    "async_lora": AsyncLoraConfig,
    "glad": GladConfig,
    "sara": SaraConfig,
    "compander": CompanderConfig,
    "mask_tuning": MaskTuningConfig,
    "dst": DstConfig,
    "low_rank": LowRankConfig,
    "lora": plain_lora,
    "prompt_pool": PromptPoolConfig,
    "hyper_lora": HyperLoraConfig,
    "session_norm": SessionNormConfig,
}
"""The `type` of an adapter's spec -> what makes its config; the other entries of the spec are options of the config."""
GIVEN = (
    *(
        "class_names",
        "classes_per_session",
        "head",
        "format_version",
        "base_signature",
        "small",
        "layer_paths",
        "domains",
        "peft_type",
        "auto_mapping",
        "peft_version",
    ),
    *("base_model_name_or_path", "revision", "inference_mode", "task_type"),
)
"""Fields of a config that no spec sets: the head has a spec of its own, and the rest is written by injection and by peft."""

__all__ = [
    "ADAPTERS",
    "AsyncLoraConfig",
    "AsyncLoraModel",
    "CPEClipConfig",
    "CPEClipModel",
    "CompanderConfig",
    "CompanderModel",
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
]
