"""The linear head.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head
from hf_cl.heads.rows import append_rows
from hf_cl.heads.stablemax import stablemax


class LinearHead(Head):
    """`features @ weight.T + bias`, with one row per class seen so far.

    New rows begin as those of `nn.Linear` do. A head that grew session by session is the full-size head: given the same initial rows it
    computes the same numbers, since rows of other sessions get no gradient where the loss masks them.

    Args:
        in_features: D, width of the features.
        num_classes: C, rows to begin with.
        bias: whether each class has a bias.
        probability: what predictions show of the logits: "softmax", or "stablemax" for a head trained under that loss.
        age_scale: rows of a class that came t sessions ago read `(1 + age_scale t) features`: SLCA++'s counterweight to how much larger the
            rows of later sessions grow (Zhang et al., arXiv 2408.08295). Each call of `grow` with names is a session.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError where `bias` is no bool, for another `probability`, and for an `age_scale` below 0.
    """

    row_sessions: Tensor
    """[C] the session of each row; where rows age."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = True,
        probability: Literal["softmax", "stablemax"] = "softmax",
        age_scale: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(bias, bool):
            raise ValueError(f"LinearHead: bias must be true or false, got {bias!r}.")
        if probability not in ("softmax", "stablemax"):
            raise ValueError(f"LinearHead: probability must be 'softmax' or 'stablemax', got {probability!r}.")
        if isinstance(age_scale, bool) or not 0 <= age_scale < math.inf:
            raise ValueError(f"LinearHead: age_scale must be a number from 0, got {age_scale!r}.")
        self.probability, self.age_scale = probability, float(age_scale)
        self.in_features, self.num_classes = in_features, 0
        self.weight = nn.Parameter(torch.empty(0, in_features, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty(0, device=device, dtype=dtype)) if bias else None)
        if age_scale:
            self.register_buffer("row_sessions", torch.empty(0, dtype=torch.int64, device=self.weight.device))
        self._append(num_classes)

    def grow(self, class_names: Sequence[str]) -> None:
        self._append(len(class_names))

    def _append(self, count: int) -> None:
        self.weight = append_rows(self.weight, (count, self.in_features), self.in_features)
        if self.bias is not None:
            self.bias = append_rows(self.bias, (count,), self.in_features)
        if self.age_scale and count:
            session = self.row_sessions[-1:] + 1 if self.num_classes else self.row_sessions.new_zeros(1)
            self.row_sessions = torch.cat([self.row_sessions, session.expand(count)])  # [C]
        self.num_classes += count

    def ages(self) -> Tensor:
        """[C] how many sessions ago each class came; of a head whose rows age."""
        return self.row_sessions[-1:] - self.row_sessions

    def aged_weight(self) -> Tensor:
        """[C, D] the rows as they meet the features."""
        if not self.age_scale:
            return self.weight
        return self.weight * (1 + self.age_scale * self.ages()).to(self.weight.dtype)[:, None]

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        return F.linear(features, self.aged_weight(), self.bias)

    def as_linear(self) -> nn.Linear | None:
        # on the meta device first: drawn values would move the run's random generator
        linear = nn.Linear(self.in_features, self.num_classes, bias=self.bias is not None, device="meta", dtype=self.weight.dtype)
        linear = linear.to_empty(device=self.weight.device)
        with torch.no_grad():
            linear.weight.copy_(self.aged_weight())
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def probabilities(self, logits: Tensor) -> Tensor:
        return stablemax(logits) if self.probability == "stablemax" else super().probabilities(logits)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, bias={self.bias is not None}"
