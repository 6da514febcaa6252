"""The adapter types of hf_cl. Importing this package registers them in peft."""

from hf_cl.adapters.async_lora import AsyncLoraConfig, AsyncLoraModel
from hf_cl.adapters.cpe_clip import CPEClipConfig, CPEClipModel
from hf_cl.adapters.glad import GladConfig, GladModel
from hf_cl.adapters.one_prompt import OnePromptConfig, OnePromptModel
from hf_cl.adapters.sara import SaraConfig, SaraModel

__all__ = [
    "AsyncLoraConfig",
    "AsyncLoraModel",
    "CPEClipConfig",
    "CPEClipModel",
    "GladConfig",
    "GladModel",
    "OnePromptConfig",
    "OnePromptModel",
    "SaraConfig",
    "SaraModel",
]
