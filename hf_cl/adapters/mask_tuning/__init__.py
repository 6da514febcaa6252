"""MASK_TUNING: weights of the base, kept or set to zero."""

from hf_cl._peft import register_type
from hf_cl.adapters.mask_tuning.config import MaskTuningConfig
from hf_cl.adapters.mask_tuning.layer import MaskTuningLayer
from hf_cl.adapters.mask_tuning.model import MaskTuningModel

__all__ = ["MaskTuningConfig", "MaskTuningLayer", "MaskTuningModel"]

register_type("MASK_TUNING", MaskTuningConfig, MaskTuningModel)
