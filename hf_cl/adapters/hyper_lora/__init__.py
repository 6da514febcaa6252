"""HYPER_LORA: LoRA factors that a recurrent network generates, one embedding per session."""

from hf_cl._peft import register_type
from hf_cl.adapters.hyper_lora.config import HyperLoraConfig
from hf_cl.adapters.hyper_lora.generator import Factors, Generator
from hf_cl.adapters.hyper_lora.layer import HyperLoraLayer
from hf_cl.adapters.hyper_lora.model import HyperLoraModel

__all__ = ["Factors", "Generator", "HyperLoraConfig", "HyperLoraLayer", "HyperLoraModel"]

register_type("HYPER_LORA", HyperLoraConfig, HyperLoraModel)
