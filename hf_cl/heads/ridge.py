"""The ridge head: least squares on one-hot targets.

Shapes: B batch, C classes seen so far, D feature width, M width of a feature map (D without one).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.contracts import Session, Trainer
from hf_cl.heads.feature_maps import FeatureMap
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number, copy_same_shapes, own_rows
from hf_cl.heads.map_store import MapStore
from hf_cl.heads.refit import RefitHead
from hf_cl.heads.ridge_fit import Sums, best_penalty, sample_weights, solve
from hf_cl.memory.class_statistics import ClassStatistics

logger = logging.getLogger(__name__)

GRID = tuple(10.0**k for k in range(-3, 4))
"""Penalties that "loo" chooses from, times the mean variance of the sums."""
FINER = (10**-0.5, 1.0, 10**0.5)
"""Then from these, times the chosen one: under a random map a whole power of ten costs a point of accuracy."""


class RidgeHead(RefitHead):
    """Ridge regression on one-hot targets, from sums that add up over sessions: the head fitted to all images at once.

    Hoerl and Kennard, "Ridge Regression", Technometrics 1970; with `feature_map: relu` the classifier of RanPAC (McDonnell et al., NeurIPS
    2023). Measured, it lies below the Gaussian head's shared covariance: take it as a baseline. Train mode: trainable linear rows.

    Args:
        lam: the penalty, or "loo": of powers of ten, then of half powers around it, the one under which this session's images are predicted
            best when they are left out.
        bias: a constant column, without penalty.
        class_balance: every class weighs the same, whatever its number of images.
        feature_map, map_dim, gamma, map_seed, normalize: as the Gaussian head's.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        lam: float | Literal["loo"] = "loo",
        bias: bool = True,
        class_balance: bool = True,
        feature_map: Literal["none", "rff", "relu"] = "none",
        map_dim: int = 2048,
        gamma: float = 0.1,
        map_seed: int = 0,
        normalize: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "RidgeHead"
        check_bool(name, bias=bias, class_balance=class_balance, normalize=normalize)
        if lam != "loo":
            check_number(name, "lam", lam, 0.0, math.inf, "loo or a number from 0")
        check_count(name, "map_dim", map_dim, 1, 2**20)
        check_number(name, "gamma", gamma, math.ulp(0.0), math.inf, "a positive number")
        mapped = feature_map != "none" or normalize
        width = map_dim if feature_map != "none" else in_features
        super().__init__(in_features, 0, fit_features=width, device=device, dtype=dtype)
        self.lam, self.has_bias, self.class_balance, self.reads_features = lam, bias, class_balance, not mapped
        self.feature_map: FeatureMap | None = None
        self.map_store: MapStore | None = None
        if mapped:
            factory: Any = {"device": self.weight.device, "dtype": self.weight.dtype}
            self.feature_map = FeatureMap(in_features, feature_map, map_dim, gamma=gamma, seed=map_seed, normalize=normalize, **factory)
            self.map_store = MapStore(width)
        self.grow([""] * num_classes)

    @property
    def statistics(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One scatter; of each class where classes are balanced; none under a map."""
        if self.feature_map is not None:
            return frozenset()
        return frozenset({"pooled", "full"} if self.class_balance else {"pooled"})

    @property
    def new_classes_only(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Balanced, each class's scatter is weighed by its images, and under a map only the sum is kept."""
        if self.map_store is None or not self.class_balance:
            return ""
        return "under a feature map the ridge head keeps no scatter of single classes to weigh anew (`class_balance: false` needs none)"

    @property
    def moves_with_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether features that move can be followed."""
        return self.feature_map is None

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        if self.map_store is not None:
            self.map_store.grow(len(class_names))

    def inputs(self, features: Tensor) -> Tensor:
        return features if self.feature_map is None else self.feature_map(features)

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Add the session and solve for all classes.

        Raises ValueError for a class without images, and where the system is singular.
        """
        features, labels, index = own_rows(trainer, session)
        statistics, rows = trainer.class_statistics(session), features
        if self.feature_map is not None and self.map_store is not None:
            if session.id == 0:
                self.feature_map.begin(features)
            rows = self.feature_map(features)  # [n, M]
            statistics = self._under_the_map(self.map_store, rows, labels, index)
        sums, weights = self._sums(statistics, labels)
        lam = self.lam
        if lam == "loo":
            system = sums.centred() if self.has_bias else sums
            scale = float(system.gram.trace()) / len(system.gram) or 1.0
            for factors in (GRID, FINER):
                scale = best_penalty(sums, [scale * factor for factor in factors], rows, labels, bias=self.has_bias, weights=weights)
            lam = scale
        logger.info("Ridge head: lam %.3g", lam)
        self.set_fit(*solve(sums, float(lam), bias=self.has_bias))
        as_on_rank_0([self.fitted_weight, self.fitted_bias])

    def take_over(self, other: Any, groups: Sequence[Sequence[int]]) -> None:
        """As `GaussianHead.take_over`; there is nothing but rows."""
        copy_same_shapes(self, other)

    @torch.no_grad()
    def refit(self, statistics: ClassStatistics) -> None:
        """Solve for all classes from statistics alone, by a penalty that is given as a number, without a feature map."""
        sums = Sums.of(statistics, self.num_classes, balanced=self.class_balance)
        self.set_fit(*solve(sums, float(self.lam), bias=self.has_bias))

    def _under_the_map(self, store: MapStore, rows: Tensor, labels: Tensor, index: Tensor) -> ClassStatistics:
        """Counts, means and the summed scatter with the session's rows added; balanced, each class's scatter over its number of images."""
        statistics = store.statistics()
        scatter = store.scatter.cpu().clone()
        again = [label for label in labels.unique().tolist() if statistics.count(label)]
        if again and self.class_balance:
            raise ValueError(
                f"Classes {again} come again, and under a feature map the ridge head keeps no scatter of single classes to weigh anew: "
                "give it `class_balance: false`."
            )
        statistics.update(rows, labels, index)
        for label in labels.unique().tolist():
            centred = rows[labels == label] - statistics.mean(label)
            scatter += centred.T @ centred / len(centred)
        store.keep(statistics, scatter if self.class_balance else statistics.pooled_scatter())
        return store.statistics()

    def _sums(self, statistics: ClassStatistics, labels: Tensor) -> tuple[Sums, Tensor | None]:
        """The sums over all images, and the weight of each image of the session [n]."""
        if not self.class_balance:
            return Sums.of(statistics, self.num_classes, balanced=False), None
        counts = torch.tensor([statistics.count(label) for label in range(self.num_classes)], dtype=torch.float64)
        weighted = None if self.map_store is None else statistics.pooled_scatter()
        return Sums.of(statistics, self.num_classes, balanced=True, weighted=weighted), sample_weights(counts)[labels]
