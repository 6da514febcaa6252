"""The loop on accelerate."""

from hf_cl.settings import RunSettings, TrainingSettings
from hf_cl.training.session_loop import SessionLoop

__all__ = ["RunSettings", "SessionLoop", "TrainingSettings"]
