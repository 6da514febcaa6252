"""DST: sparse differences that are rewired while they train."""

from hf_cl._peft import register_type
from hf_cl.adapters.dst.config import DstConfig
from hf_cl.adapters.dst.layer import DstLayer
from hf_cl.adapters.dst.model import DstModel

__all__ = ["DstConfig", "DstLayer", "DstModel"]

register_type("DST", DstConfig, DstModel)
