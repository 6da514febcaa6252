"""Loss terms, one per file."""

from hf_cl.losses.consistency import Consistency
from hf_cl.losses.masked_cross_entropy import MaskedCrossEntropy
from hf_cl.losses.nuclear_norm import NuclearNorm
from hf_cl.losses.supervised_contrastive import SupervisedContrastive, supervised_contrastive
from hf_cl.losses.virtual_outliers import Outliers, VirtualOutliers, kth_squared_distance, synthesize_outliers, vor_penalty
from hf_cl.losses.zero_shot_kl import ZeroShotKL

__all__ = [
    "Consistency",
    "MaskedCrossEntropy",
    "NuclearNorm",
    "Outliers",
    "SupervisedContrastive",
    "VirtualOutliers",
    "ZeroShotKL",
    "kth_squared_distance",
    "supervised_contrastive",
    "synthesize_outliers",
    "vor_penalty",
]
