"""What the Gaussian head's settings may be, and what they say together."""

from __future__ import annotations

import math
from typing import Any

from hf_cl.heads.fitted import check_bool, check_count, check_number
from hf_cl.heads.gaussian_votes import Form

MIXED_UP_TO = 384
"""Width up to which "auto" keeps whole covariances of classes, 4 D (D + 1) / 2 bytes each."""


def form_of(width: int, covariance: Any, rank: Any, own_share: Any, prior: Any, flatness: Any, feature_map: Any, normalize: Any) -> Form:
    """What the settings say of a class's Gaussian. Raises ValueError where they contradict each other."""
    name = "GaussianHead"
    check_bool(name, prior=prior, normalize=normalize)
    check_number(name, "prior_flatness", flatness, 0.0, math.nextafter(1.0, 2.0), "a number from 0 to 1")
    if prior or normalize or feature_map != "none":
        if covariance not in ("auto", "shared"):
            raise ValueError(f"{name}: a prior, a feature map or normalize goes with the shared covariance, not with {covariance!r}.")
        covariance = "shared"
    elif covariance == "auto":
        covariance = "mixed" if width <= MIXED_UP_TO else "low_rank"
    if covariance == "shared" and own_share != "auto":
        raise ValueError(f"{name}: under a shared covariance no class has one of its own; leave own_share out.")
    if covariance == "low_rank":
        check_count(name, "rank", rank, 1, width - 1)
    return Form(covariance, rank if covariance == "low_rank" else None, float(flatness) if prior else None)


def check_settings(shrinkage: Any, own_share: Any, temperature: Any, map_dim: Any, gamma: Any) -> None:
    """Raise ValueError for a value that is none of the allowed ones."""
    name = "GaussianHead"
    if shrinkage not in ("auto", "rule"):
        check_number(name, "shrinkage", shrinkage, 0.0, math.nextafter(1.0, 2.0), "auto, rule or a number from 0 to 1")
    if own_share not in ("auto", "rule"):
        check_number(name, "own_share", own_share, 0.0, 1.0, "auto, rule or a number from 0 to below 1")
    if temperature != "auto":
        check_number(name, "temperature", temperature, math.ulp(0.0), math.inf, "auto or a positive number")
    check_count(name, "map_dim", map_dim, 1, 2**20)
    check_number(name, "gamma", gamma, math.ulp(0.0), math.inf, "a positive number")
