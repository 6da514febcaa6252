"""What else happens around training: parts that several methods list, neither losses nor rules nor probes."""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.contracts import Part
from hf_cl.parts.better_features import BetterFeatures
from hf_cl.parts.classifier_alignment import ClassifierAlignment
from hf_cl.parts.domain_rule import DomainRule
from hf_cl.parts.drift_map import DriftMap
from hf_cl.parts.old_rows_rest import OldRowsRest
from hf_cl.parts.pool_usage import PoolUsage
from hf_cl.parts.prototypes import Prototypes
from hf_cl.parts.session_means import SessionMeans
from hf_cl.parts.unfreeze import Unfreeze

PARTS: dict[str, Callable[..., Part]] = {
    "better_features": BetterFeatures,
    "drift_map": DriftMap,
    "prototypes": Prototypes,
    "classifier_alignment": ClassifierAlignment,
    "old_rows_rest": OldRowsRest,
    "unfreeze": Unfreeze,
    "session_means": SessionMeans,
    "pool_usage": PoolUsage,
    "domain_rule": DomainRule,
}
"""Name -> what makes it; the entries of its spec are its keyword arguments."""

__all__ = [
    "PARTS",
    "BetterFeatures",
    "ClassifierAlignment",
    "DomainRule",
    "DriftMap",
    "OldRowsRest",
    "PoolUsage",
    "Prototypes",
    "SessionMeans",
    "Unfreeze",
]
