"""SESSION_NORM: scales and shifts of LayerNorms, the same for all images or by the domain of each."""

from hf_cl._peft import register_type
from hf_cl.adapters.session_norm.config import SessionNormConfig
from hf_cl.adapters.session_norm.layer import SessionNormLayer
from hf_cl.adapters.session_norm.model import SessionNormModel

__all__ = ["SessionNormConfig", "SessionNormLayer", "SessionNormModel"]

register_type("SESSION_NORM", SessionNormConfig, SessionNormModel)
