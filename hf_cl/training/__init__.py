"""The loop on accelerate and everything a run writes."""

from hf_cl.training.settings import RunSettings, TrainingSettings
from hf_cl.training.trainer import ContinualTrainer

__all__ = ["ContinualTrainer", "RunSettings", "TrainingSettings"]
