"""COMPANDER: bounded, nonlinear changes of the base's weights."""

from hf_cl._peft import register_type
from hf_cl.adapters.compander.config import CompanderConfig
from hf_cl.adapters.compander.layer import CompanderLayer
from hf_cl.adapters.compander.model import CompanderModel

__all__ = ["CompanderConfig", "CompanderLayer", "CompanderModel"]

register_type("COMPANDER", CompanderConfig, CompanderModel)
