"""SARA: sparse adapters on the smallest entries of the base's weights."""

from hf_cl._peft import register_type
from hf_cl.adapters.sara.config import SaraConfig
from hf_cl.adapters.sara.layer import SaraLayer, SaraLinear, SaraModule
from hf_cl.adapters.sara.model import SaraModel
from hf_cl.adapters.sara.official import from_official
from hf_cl.adapters.sara.optimizer import attach, sara_lr

__all__ = ["SaraConfig", "SaraLayer", "SaraLinear", "SaraModel", "SaraModule", "attach", "from_official", "sara_lr"]

register_type("SARA", SaraConfig, SaraModel)
