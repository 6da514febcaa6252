"""Heads: the model's classifier, which grows with the classes and travels in the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from hf_cl.contracts import Head
from hf_cl.heads.cosine import CosineHead
from hf_cl.heads.dkvb import DKVBHead
from hf_cl.heads.etf import ETFHead
from hf_cl.heads.fetril import FeTrILHead
from hf_cl.heads.gaussian import GaussianHead
from hf_cl.heads.instance_mask import InstanceMaskHead
from hf_cl.heads.kernel_ridge import KernelRidgeHead
from hf_cl.heads.language_targets import LanguageTargetHead
from hf_cl.heads.linear import LinearHead
from hf_cl.heads.logistic import LogisticHead
from hf_cl.heads.maxsim import MaxSimHead
from hf_cl.heads.nested_dropout import INNER, NestedDropoutHead
from hf_cl.heads.pooler import PoolerHead, linear_head
from hf_cl.heads.prototype import PrototypeHead
from hf_cl.heads.ridge import RidgeHead
from hf_cl.heads.session_linear import SessionLinearHead
from hf_cl.hints import faults_of, refuse
from hf_cl.memory.class_statistics import ClassStatistics

HEADS: dict[str, Callable[..., Head]] = {
    "linear": linear_head,
    "cosine": CosineHead,
    "prototype": PrototypeHead,
    "gaussian": GaussianHead,
    "ridge": RidgeHead,
    "kernel_ridge": KernelRidgeHead,
    "logistic": LogisticHead,
    "fetril": FeTrILHead,
    "dkvb": DKVBHead,
    "etf": ETFHead,
    "maxsim": MaxSimHead,
    "language_targets": LanguageTargetHead,
    "nested_dropout": NestedDropoutHead,
    "instance_mask": InstanceMaskHead,
    "session_linear": SessionLinearHead,
}
"""The `type` of a head's spec -> what makes it. It is called with (in_features, num_classes), `device`, `dtype` and the other entries
of the spec."""

GIVEN = ("in_features", "num_classes", "device", "dtype")
"""What no spec sets: the base and the classes say it."""

OF_EVERY_HEAD = ("pool",)
"""What may stand in the spec of any head and is no argument of its type, since it says where the features are taken: `pool: pooled` is the
pooled output of a CLIP or SigLIP vision tower, before the projection (`hf_cl.adapters.pooled`); absent: what the model's class feeds its
classifier."""

__all__ = [
    "HEADS",
    "ClassStatistics",
    "CosineHead",
    "DKVBHead",
    "ETFHead",
    "FeTrILHead",
    "GaussianHead",
    "InstanceMaskHead",
    "KernelRidgeHead",
    "LanguageTargetHead",
    "LinearHead",
    "LogisticHead",
    "MaxSimHead",
    "NestedDropoutHead",
    "PoolerHead",
    "PrototypeHead",
    "RidgeHead",
    "SessionLinearHead",
    "build_head",
    "check_head",
    "fits_itself",
    "reads_tokens",
]


def build_head(
    spec: Mapping[str, Any],
    in_features: int,
    num_classes: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Head:
    """The head that `spec` describes: `{"type": "linear", "bias": True}`, settings of the type beside it.

    Args:
        spec: `type` (a key of `HEADS`) and settings of that type.
        in_features: D, width of the features.
        num_classes: C, rows to begin with.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a spec without a type, an unknown type, an unknown setting or a value that the type refuses.
    """
    check_head(spec)
    if spec["type"] == "text":
        raise ValueError("Under head type 'text' the class names are the head; it takes a base with an image and a text tower.")
    settings = {name: value for name, value in _own(spec).items() if name != "type"}
    return HEADS[spec["type"]](in_features, num_classes, **settings, device=device, dtype=dtype)


def check_head(spec: Mapping[str, Any]) -> None:
    """Raise ValueError, with all that is wrong, for a spec without a type, an unknown type or setting, or a value of another type."""
    faults = faults_of("head", HEADS, _own(spec), given=GIVEN, also=("text",))  # text: no module of ours
    inner = spec.get("head") if spec.get("type") == "nested_dropout" else None
    if isinstance(inner, Mapping):
        faults += faults_of("inner head", INNER, inner, given=GIVEN)
    refuse([*faults, *_pool_faults(spec)])


def fits_itself(spec: Mapping[str, Any] | None) -> bool:
    """Whether the head of a spec, or the one inside it, fits itself at the end of a session."""
    own: Mapping[str, Any] = spec or {}
    if own.get("type") == "nested_dropout":
        own = own.get("head") or {}
    kind = HEADS.get(own.get("type", ""))
    return isinstance(kind, type) and issubclass(kind, Head) and kind.fits


def reads_tokens(spec: Mapping[str, Any]) -> bool:
    """Whether the head of a spec reads the map of patch tokens instead of a vector."""
    make = HEADS.get(spec.get("type", ""))
    return isinstance(make, type) and issubclass(make, Head) and make.reads_tokens(spec)


def _own(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what is no argument of its type."""
    return {name: value for name, value in spec.items() if name not in OF_EVERY_HEAD}


def _pool_faults(spec: Mapping[str, Any]) -> list[str]:
    pool = spec.get("pool")
    if spec.get("type") == "text" and pool is not None:
        return ["A text head reads the image embedding behind the projection; leave pool out."]
    if pool is not None and reads_tokens(spec):
        return [f"A {spec['type']} head reads the patch tokens; leave pool out."]
    if pool not in (None, "pooled"):
        return [f"pool of a head is pooled (a CLIP or SigLIP vision tower's pooled output) or absent, got {pool!r}."]
    if spec.get("type") == "gaussian" and spec.get("text", "none") != "none" and pool is None:
        return ["text compares images with class names in the space of the pooled output: give the head `pool: pooled` too."]
    return []
