"""The coordinates in which a linear head is fitted, and its way back to those of the features.

Shapes: n rows, D columns, C classes, P = D or D + 1 rows of a solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_cl.heads.logistic_fit import Rows

BANDS = 8
"""Groups of principal components."""


@dataclass(frozen=True)
class FeatureFrame:
    """Columns standardised, then turned to principal components: under one decay for all of them that changes no fit, and makes it fast."""

    center: Tensor  # [D]
    scale: Tensor  # [D]
    turn: Tensor | None  # [D, D], columns are components, of each range the largest first

    @staticmethod
    def of(rows: Rows, turned: Sequence[tuple[int, int]] = ()) -> FeatureFrame:
        """Of weighted rows; `turned` are the ranges of columns that are turned to components. A column that never changes counts for
        nothing."""
        center = rows.weights @ rows.x
        centred = rows.x - center
        scale = (rows.weights @ centred.square()).sqrt()
        scale = torch.where(scale > 1e-12 * scale.max(), scale, torch.inf)
        if not turned:
            return FeatureFrame(center, scale, None)
        standard, turn = centred / scale, torch.eye(len(scale), dtype=scale.dtype)
        for start, stop in turned:
            some = standard[:, start:stop]
            turn[start:stop, start:stop] = torch.linalg.eigh((some * rows.weights[:, None]).T @ some).eigenvectors.flip(1)
        return FeatureFrame(center, scale, turn)

    def rows(self, rows: Rows) -> Rows:
        """The rows in these coordinates."""
        x = (rows.x - self.center) / self.scale
        return replace(rows, x=x if self.turn is None else x @ self.turn)

    def outside(self, v: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
        """Weight [C, D] and bias [C] on features, of a solution [P, C] here."""
        w = v[: len(self.center)]
        weight = ((w if self.turn is None else self.turn @ w) / self.scale[:, None]).T  # [C, D]
        shift = v[-1] if bias else torch.zeros(len(weight), dtype=v.dtype)
        return weight, shift - weight @ self.center

    def inside(self, weight: Tensor, bias: Tensor, with_bias: bool) -> Tensor:
        """[P, C] of weight [C, D] and bias [C] on features; a class that is NaN there begins at zero."""
        known = ~bias.isnan()
        w = (weight * torch.where(self.scale.isinf(), 0.0, self.scale)).T  # [D, C]
        w = w if self.turn is None else self.turn.T @ w
        rows = [w, (bias + weight @ self.center)[None]] if with_bias else [w]
        return torch.where(known, torch.cat(rows), 0.0)


def ranges_of(width: int, groups: Any) -> list[tuple[int, int]]:
    """Ranges [start, stop) of columns: "one", "bands" (up to eight bands of components, from narrow to wide) or a list of such ranges.

    Raises ValueError where a list does not tile the columns.
    """
    if groups == "one":
        return [(0, width)]
    if groups == "bands":
        stops = sorted({round(width ** (k / BANDS)) for k in range(1, BANDS + 1)})
        return list(zip([0, *stops[:-1]], stops, strict=True))
    edges = [0, *(stop for _, stop in groups)] if all(len(pair) == 2 for pair in groups) else []
    if not groups or [start for start, _ in groups] != edges[:-1] or edges[-1] != width or sorted(set(edges)) != edges:
        raise ValueError(
            f"LogisticHead: groups must be ranges that follow each other from 0 to the features' width of {width}, "
            f"such as [[0, {width // 2}], [{width // 2}, {width}]], got {groups}."
        )
    return [(start, stop) for start, stop in groups]
