"""CPE_CLIP: prompts in every layer of both towers of a CLIP-like model."""

from hf_cl._peft import register_type
from hf_cl.adapters.cpe_clip.config import CPEClipConfig
from hf_cl.adapters.cpe_clip.layer import CPEClipLayer
from hf_cl.adapters.cpe_clip.model import CPEClipModel
from hf_cl.adapters.cpe_clip.words import nearest_tokens

__all__ = ["CPEClipConfig", "CPEClipLayer", "CPEClipModel", "nearest_tokens"]

register_type("CPE_CLIP", CPEClipConfig, CPEClipModel)
