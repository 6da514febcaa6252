"""PROMPT_POOL: L2P, DualPrompt and CODA-Prompt."""

from hf_cl._peft import register_type
from hf_cl.adapters.prompt_pool.config import PromptPoolConfig
from hf_cl.adapters.prompt_pool.layer import PromptPoolLayer
from hf_cl.adapters.prompt_pool.model import PromptPoolModel

__all__ = ["PromptPoolConfig", "PromptPoolLayer", "PromptPoolModel"]

register_type("PROMPT_POOL", PromptPoolConfig, PromptPoolModel)
