"""What a run keeps of its past."""

from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.feature_cvae import FeatureCVAE
from hf_cl.memory.gaussian import GaussianMemory

__all__ = ["ClassStatistics", "FeatureCVAE", "GaussianMemory"]
