"""The logistic head: cross-entropy solved to its optimum, with weight decays that held-out images choose.

Shapes: B batch, C classes seen so far, D feature width, G groups of columns, n rows.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.contracts import Session, Trainer
from hf_cl.heads.feature_frame import FeatureFrame, ranges_of
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number, own_rows
from hf_cl.heads.held_back import FOLDS
from hf_cl.heads.learned_decay import LEAST, MOST, Fold, Learned, learn, search
from hf_cl.heads.logistic_blocks import solve_blocks
from hf_cl.heads.logistic_fit import CrossEntropy, Fit, Objective, solve
from hf_cl.heads.logistic_rows import TrainingRows
from hf_cl.heads.refit import RefitHead

logger = logging.getLogger(__name__)

START = -4.0
"""theta of the first session's search: a decay of 0.018."""
FEW = 10
"""With fewer images of a class, every fifth judges in turn."""
WIDEST = 8192
"""Columns up to which "blocks" makes its D x D factor."""


class LogisticHead(RefitHead):
    """Multinomial logistic regression, fitted at a session's end to the session's images and to rows that old classes' Gaussians draw: the
    alignment of SLCA, solved instead of trained. Every class weighs the same.

    The decays, one per group of columns, are learned from held-out images (`learned_decay`: MAID); the fit is certified (`logistic_fit`).
    Train mode: trainable linear rows, as in every head that fits itself.

    Args:
        decay: "learn", "grid" (of 13 values the best one, for all groups), a number, or a number for each group.
        groups: "one"; ranges of columns, [[0, 384], [384, 768]], such as the class token and the patch mean of DINOv2, or columns that may
            carry nothing; "bands" (eight of principal components, the first ones narrow), which measured no better than "one".
        memory: "gaussian"; "none" fits new classes among themselves alone and leaves old rows as they are.
        draws_per_class: rows of an old class.
        tolerance: how far, in norm, the fit may be from the optimum.
        solver: "lbfgs", or "blocks" (block coordinate descent, `logistic_blocks`), which is slower and knows `l1`.
        l1: weight of sum |W| on standardised columns, whose zeros are exact; then with a number for `decay`, and no bands.
        bias: a bias without decay.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these, or that another one excludes.
    """

    log_decay: Tensor
    """[G] as they were chosen; NaN before the first fit."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        decay: float | Literal["learn", "grid"] | list[float] = "learn",
        groups: Literal["one", "bands"] | list[list[int]] = "one",
        memory: Literal["gaussian", "none"] = "gaussian",
        draws_per_class: int = 100,
        tolerance: float = 1e-3,
        solver: Literal["lbfgs", "blocks"] = "lbfgs",
        l1: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "LogisticHead"
        check_bool(name, bias=bias)
        check_count(name, "draws_per_class", draws_per_class, 1, 2**20)
        check_number(name, "tolerance", tolerance, 1e-8, math.inf, "a number from 1e-8")
        check_number(name, "l1", l1, 0.0, math.inf, "a number from 0")
        ranges = ranges_of(in_features, groups)
        _check_decay(decay, len(ranges))
        _check_solver(solver, l1, groups, decay, in_features)
        super().__init__(in_features, 0, device=device, dtype=dtype)
        self.decay, self.draws_per_class, self.tolerance = decay, draws_per_class, tolerance
        self.memory: Literal["gaussian", "none"] = memory
        self.solver, self.l1, self.has_bias, self.ranges = solver, float(l1), bias, ranges
        self.turned = [] if l1 else [(0, in_features)] if groups == "bands" else ranges
        factory: Any = {"device": self.weight.device, "dtype": self.weight.dtype}  # peft puts parameters alone on the meta device
        self.register_buffer("log_decay", torch.full((len(ranges),), torch.nan, **factory))
        self.grow([""] * num_classes)

    @property
    def statistics(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Scatters of single classes, which old ones are drawn from."""
        return frozenset({"full"} if self.memory == "gaussian" else ())

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Choose the decays and fit.

        Raises ValueError for a class without images, and, without a memory, for a session of one class.
        """
        rows = TrainingRows.of(trainer, session, own_rows(trainer, session), self.num_classes, self.draws_per_class, self.memory)
        if rows.num_classes == 1:
            self._set(rows, torch.zeros(1, self.in_features).double(), torch.zeros(1).double())
            return
        frame = FeatureFrame.of(rows.all(), self.turned)
        groups = torch.repeat_interleave(torch.tensor([stop - start for start, stop in self.ranges]))  # [D]
        start = frame.inside(self.fitted_weight[rows.first :].cpu().double(), self.fitted_bias[rows.first :].cpu().double(), self.has_bias)
        theta, start = self._decays(rows, frame, groups, start)
        objective = Objective(frame.rows(rows.all()), groups, rows.num_classes, bias=self.has_bias)
        fit = self._solved(objective, theta, start)
        if not fit.distance <= self.tolerance:
            logger.warning(
                "The logistic head is up to %.2g from its optimum, farther than its tolerance of %g.", fit.distance, self.tolerance
            )
        decays = ", ".join(f"{decay:.3g}" for decay in theta.exp().tolist())
        logger.info("Logistic head: decay %s; at most %.2g from the optimum", decays, fit.distance)
        self.log_decay.copy_(theta)
        self._set(rows, *frame.outside(fit.v, self.has_bias))

    def _set(self, rows: TrainingRows, weight: Tensor, bias: Tensor) -> None:
        old = (self.fitted_weight[: rows.first].cpu().double(), self.fitted_bias[: rows.first].cpu().double())
        self.set_fit(torch.cat([old[0], weight]), torch.cat([old[1], bias]))
        as_on_rank_0([self.fitted_weight, self.fitted_bias, self.log_decay])

    def _decays(self, rows: TrainingRows, frame: FeatureFrame, groups: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """theta [G], and where the fit begins."""
        if self.decay not in ("learn", "grid"):
            values: Any = self.decay if isinstance(self.decay, list) else [self.decay] * len(self.ranges)
            return torch.tensor(values, dtype=torch.float64).log(), start
        folds = []
        for fold in range(FOLDS if rows.smallest() < FEW else 1):
            train, held = rows.without(fold), rows.of_fold(fold)
            if len(held.x):
                objective = Objective(frame.rows(train), groups, rows.num_classes, bias=self.has_bias)
                folds.append(Fold(objective, CrossEntropy(frame.rows(held), rows.num_classes, bias=self.has_bias)))
        before = self.log_decay.cpu().double()
        theta = torch.full_like(before, START) if before.isnan().any() else before
        if not folds:
            logger.warning(
                "The logistic head has no image to hold back, one of each class: its decay stays at %.3g.", float(theta[0].exp())
            )
            return theta, start
        starts = [start] * len(folds)
        found: Learned = learn(folds, theta, starts) if self.decay == "learn" else search(folds, len(theta), starts, self.tolerance)
        logger.info("Logistic head: held-out loss %.4g after %d passes over the rows", found.loss, found.passes)
        return found.theta, found.fits[0].v

    def _solved(self, objective: Objective, theta: Tensor, start: Tensor) -> Fit:
        if self.solver == "blocks":
            return solve_blocks(objective, theta, start, self.tolerance, l1=self.l1)
        return solve(objective, theta, start, self.tolerance)


def _check_decay(decay: Any, groups: int) -> None:
    if isinstance(decay, str):
        return
    values = decay if isinstance(decay, list) else [decay]
    for value in values:
        check_number("LogisticHead", "decay", value, math.exp(LEAST) / 2, 2 * math.exp(MOST), "learn, grid or a number from 0.0005 to 109")
    if isinstance(decay, list) and len(values) != groups:
        raise ValueError(f"LogisticHead: decay has {len(values)} numbers, and there are {groups} groups of columns.")


def _check_solver(solver: str, l1: float, groups: Any, decay: Any, width: int) -> None:
    if solver == "blocks" and width > WIDEST:
        raise ValueError(f"LogisticHead: solver blocks makes a matrix of {width} x {width}; above a width of {WIDEST} take solver: lbfgs.")
    if l1 and solver != "blocks":
        raise ValueError("LogisticHead: l1 needs `solver: blocks`.")
    if l1 and (groups == "bands" or isinstance(decay, str)):
        raise ValueError("LogisticHead: l1 needs a number for decay, and no bands: zeros of principal components are none of columns.")
