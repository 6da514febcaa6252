"""The loop on accelerate and everything a run writes."""

from hf_cl.training.session_loop import SessionLoop
from hf_cl.training.settings import RunSettings, TrainingSettings

__all__ = ["RunSettings", "SessionLoop", "TrainingSettings"]
