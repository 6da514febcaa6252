"""Loss terms, one per file."""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.contracts import LossTerm
from hf_cl.losses.balanced_softmax import BalancedSoftmax
from hf_cl.losses.binary_cross_entropy import BinaryCrossEntropy
from hf_cl.losses.branch_separation import BranchSeparation
from hf_cl.losses.branch_suppression import BranchSuppression
from hf_cl.losses.consistency import Consistency
from hf_cl.losses.contrastive_keys import ContrastiveKeys
from hf_cl.losses.dot_regression import DotRegression
from hf_cl.losses.early_learning import EarlyLearning
from hf_cl.losses.ensemble_distillation import EnsembleDistillation, Teacher
from hf_cl.losses.ewc import EWC
from hf_cl.losses.experience_replay import ExperienceReplay
from hf_cl.losses.feature_distillation import FeatureDistillation
from hf_cl.losses.feature_match import FeatureMatch
from hf_cl.losses.feature_replay import FeatureReplay
from hf_cl.losses.generated_factors import GeneratedFactors
from hf_cl.losses.image_draws import image_uniforms, image_words
from hf_cl.losses.l2_anchor import L2Anchor
from hf_cl.losses.logit_replay import LogitReplay
from hf_cl.losses.mask_norm import MaskNorm
from hf_cl.losses.masked_cross_entropy import MaskedCrossEntropy
from hf_cl.losses.masked_views import MaskedViewContrast
from hf_cl.losses.mvp import MvpLoss
from hf_cl.losses.nuclear_norm import NuclearNorm
from hf_cl.losses.orthogonal_prompts import OrthogonalPrompts
from hf_cl.losses.prediction_distillation import PredictionDistillation
from hf_cl.losses.projector import Projector
from hf_cl.losses.prompt_keys import PromptKeys
from hf_cl.losses.prototype import PrototypeLoss
from hf_cl.losses.relation_distillation import RelationDistillation
from hf_cl.losses.self_distillation import SelfDistillation
from hf_cl.losses.slope_cap import SlopeCap
from hf_cl.losses.stablemax import StableMax
from hf_cl.losses.supervised_contrastive import ProjectedContrast, SupervisedContrastive, supervised_contrastive
from hf_cl.losses.symmetric_cross_entropy import SymmetricCrossEntropy, symmetric_cross_entropy
from hf_cl.losses.text_replay import TextReplay
from hf_cl.losses.virtual_outliers import Outliers, VirtualOutliers, kth_squared_distance, synthesize_outliers, vor_penalty
from hf_cl.losses.weight_deviation import WeightDeviation
from hf_cl.losses.zero_shot_kl import ZeroShotKL

LOSSES: dict[str, Callable[..., LossTerm]] = {
    "cross_entropy": MaskedCrossEntropy,
    "supervised_contrastive": SupervisedContrastive,
    "consistency": Consistency,
    "zero_shot_kl": ZeroShotKL,
    "virtual_outliers": VirtualOutliers,
    "nuclear_norm": NuclearNorm,
    "mask_norm": MaskNorm,
    "binary_cross_entropy": BinaryCrossEntropy,
    "prediction_distillation": PredictionDistillation,
    "feature_distillation": FeatureDistillation,
    "l2_anchor": L2Anchor,
    "ewc": EWC,
    "self_distillation": SelfDistillation,
    "early_learning": EarlyLearning,
    "stablemax": StableMax,
    "slope_cap": SlopeCap,
    "symmetric_cross_entropy": SymmetricCrossEntropy,
    "prompt_keys": PromptKeys,
    "orthogonal_prompts": OrthogonalPrompts,
    "experience_replay": ExperienceReplay,
    "balanced_softmax": BalancedSoftmax,
    "logit_replay": LogitReplay,
    "masked_views": MaskedViewContrast,
    "feature_replay": FeatureReplay,
    "text_replay": TextReplay,
    "generated_factors": GeneratedFactors,
    "contrastive_keys": ContrastiveKeys,
    "mvp": MvpLoss,
    "prototype": PrototypeLoss,
    "relation_distillation": RelationDistillation,
    "dot_regression": DotRegression,
    "branch_suppression": BranchSuppression,
    "branch_separation": BranchSeparation,
    "feature_match": FeatureMatch,
    "weight_deviation": WeightDeviation,
}
"""The `type` of a loss's spec -> what makes it; the other entries of the spec are its keyword arguments. `EnsembleDistillation` takes
trained models, which no spec can name: `hf-cl ensemble --distill` makes it."""

__all__ = [
    "EWC",
    "LOSSES",
    "BalancedSoftmax",
    "BinaryCrossEntropy",
    "BranchSeparation",
    "BranchSuppression",
    "Consistency",
    "ContrastiveKeys",
    "DotRegression",
    "EarlyLearning",
    "EnsembleDistillation",
    "ExperienceReplay",
    "FeatureDistillation",
    "FeatureMatch",
    "FeatureReplay",
    "GeneratedFactors",
    "L2Anchor",
    "LogitReplay",
    "MaskNorm",
    "MaskedCrossEntropy",
    "MaskedViewContrast",
    "MvpLoss",
    "NuclearNorm",
    "OrthogonalPrompts",
    "Outliers",
    "PredictionDistillation",
    "ProjectedContrast",
    "Projector",
    "PromptKeys",
    "PrototypeLoss",
    "RelationDistillation",
    "SelfDistillation",
    "SlopeCap",
    "StableMax",
    "SupervisedContrastive",
    "SymmetricCrossEntropy",
    "Teacher",
    "TextReplay",
    "VirtualOutliers",
    "WeightDeviation",
    "ZeroShotKL",
    "image_uniforms",
    "image_words",
    "kth_squared_distance",
    "supervised_contrastive",
    "symmetric_cross_entropy",
    "synthesize_outliers",
    "vor_penalty",
]
