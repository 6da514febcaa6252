"""GLAD: LoRA whose config records the gradient rule."""

from hf_cl._peft import register_type
from hf_cl.adapters.glad.config import GladConfig, plain_lora
from hf_cl.adapters.glad.export import export_lora
from hf_cl.adapters.glad.model import GladModel

__all__ = ["GladConfig", "GladModel", "export_lora", "plain_lora"]

register_type("GLAD", GladConfig, GladModel)
