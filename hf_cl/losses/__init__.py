"""Loss terms, one per file."""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.contracts import LossTerm
from hf_cl.losses.consistency import Consistency
from hf_cl.losses.masked_cross_entropy import MaskedCrossEntropy
from hf_cl.losses.nuclear_norm import NuclearNorm
from hf_cl.losses.projector import Projector
from hf_cl.losses.supervised_contrastive import ProjectedContrast, SupervisedContrastive, supervised_contrastive
from hf_cl.losses.virtual_outliers import Outliers, VirtualOutliers, kth_squared_distance, synthesize_outliers, vor_penalty
from hf_cl.losses.zero_shot_kl import ZeroShotKL

LOSSES: dict[str, Callable[..., LossTerm]] = {
    "cross_entropy": MaskedCrossEntropy,
    "supervised_contrastive": SupervisedContrastive,
    "consistency": Consistency,
    "zero_shot_kl": ZeroShotKL,
    "virtual_outliers": VirtualOutliers,
    "nuclear_norm": NuclearNorm,
}
"""The `type` of a loss's spec -> what makes it; the other entries of the spec are its keyword arguments."""

__all__ = [
    "LOSSES",
    "Consistency",
    "MaskedCrossEntropy",
    "NuclearNorm",
    "Outliers",
    "ProjectedContrast",
    "Projector",
    "SupervisedContrastive",
    "VirtualOutliers",
    "ZeroShotKL",
    "kth_squared_distance",
    "supervised_contrastive",
    "synthesize_outliers",
    "vor_penalty",
]
