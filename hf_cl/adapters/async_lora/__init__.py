"""ASYNC_LORA: the asynchronous LoRA of CoACT."""

from hf_cl._peft import register_type
from hf_cl.adapters.async_lora.config import AsyncLoraConfig
from hf_cl.adapters.async_lora.layer import AsyncLoraLayer
from hf_cl.adapters.async_lora.model import AsyncLoraModel

__all__ = ["AsyncLoraConfig", "AsyncLoraLayer", "AsyncLoraModel"]

register_type("ASYNC_LORA", AsyncLoraConfig, AsyncLoraModel)
