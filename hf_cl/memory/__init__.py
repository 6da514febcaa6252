"""What a run keeps of its past."""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.contracts import Memory
from hf_cl.memory.class_means import ClassMeans
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.exemplar_places import Exemplar
from hf_cl.memory.exemplars import Exemplars
from hf_cl.memory.feature_cvae import FeatureCVAE
from hf_cl.memory.gaussian import GaussianMemory

MEMORIES: dict[str, Callable[..., Memory]] = {"exemplars": Exemplars, "class_means": ClassMeans}
"""The `type` of a memory's spec -> what makes it; the other entries of the spec are its keyword arguments."""
GIVEN = ("folder",)
"""What the maker gets from the setting `memory_dir`."""

__all__ = ["GIVEN", "MEMORIES", "ClassMeans", "ClassStatistics", "Exemplar", "Exemplars", "FeatureCVAE", "GaussianMemory"]
