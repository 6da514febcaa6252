"""ONE_PROMPT: the prefix prompt of OVOR."""

from hf_cl._peft import register_type
from hf_cl.adapters.one_prompt.config import OVOR_LAYER_TOKENS, OnePromptConfig
from hf_cl.adapters.one_prompt.layer import OnePromptLayer
from hf_cl.adapters.one_prompt.model import OnePromptModel

__all__ = ["OVOR_LAYER_TOKENS", "OnePromptConfig", "OnePromptLayer", "OnePromptModel"]

register_type("ONE_PROMPT", OnePromptConfig, OnePromptModel)
