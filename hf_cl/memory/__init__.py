"""What a run keeps of its past."""

from hf_cl.memory.class_statistics import ClassStatistics

__all__ = ["ClassStatistics"]
