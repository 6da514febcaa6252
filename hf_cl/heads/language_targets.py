"""The head whose classes are fixed vectors of a language model.

Shapes: B batch, C classes seen so far, K targets of a class, D feature width, E width of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part, Trainer
from hf_cl.heads.fitted import check_bool, check_count, check_number
from hf_cl.heads.rows import append_rows

LEAST_SCALE = 1e-3
"""Below it the scale is put back after a step: one that changed its sign would turn every class into its opposite."""


class LanguageTargetHead(Head, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """`scale * cos(P features, target)`: each class has a fixed target, what a text tower says of its name; P and the scale train.

    LingoCL (Ni et al., "Enhancing Visual Continual Learning with Language-Guided Supervision", CVPR 2024; there is no official code).
    Related classes have related targets, so a new class asks less of what was learned, and its target is known before its first picture.
    With K targets a class the cosine is their soft maximum, `tau (logsumexp(cos / tau) - log K)`.

    P begins as the base's own projection where the head reads the pooled output of the tower that belongs to the texts (`pool: pooled`;
    the head then begins as the base's zero-shot classifier), as the identity where the widths are equal, else as a new linear layer. The
    targets travel with the adapter: a loaded one needs no text tower.

    Args:
        in_features: D.
        num_classes: C, rows to begin with; their targets are 0 until `write_texts`.
        targets: "text", or a safetensors file with a vector [E], or several [K, E], under the name of each class; two controls that know no
            language: "random" directions, one for each name, and "orthogonal" ones, by order of arrival.
        text_model: the text tower, a Hub id, a folder or `demo_clip`; None: the base's own.
        template: the text of a class, `{}` is its name; several in a list.
        aggregate: of several texts: one target, their "mean", or all of them under the soft maximum, "lse".
        tau: of that maximum.
        scale: where the learned scale begins. The re-implementation that we read begins at 1, where the softmax is nearly flat.
        center: subtract the mean of session 0's targets from all: the texts of a CLIP point much the same way.
        text_width, num_targets: E and K; the run writes them down.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a number out of range, and without a `text_width`.
    """

    class_targets: Tensor
    """[C, K, E] at unit length; 0 where a class has none yet."""
    middle: Tensor
    """[E] what was subtracted from the texts before they were brought to unit length."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        targets: str = "text",
        text_model: str | None = None,
        template: str | list[str] | None = None,
        aggregate: Literal["mean", "lse"] = "mean",
        tau: float = 0.1,
        scale: float = 10.0,
        center: bool = False,
        text_width: int | None = None,
        num_targets: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_number(name, "tau", tau, math.ulp(0.0), math.inf, "a positive number")
        check_number(name, "scale", scale, math.ulp(0.0), math.inf, "a positive number")
        check_bool(name, center=center)
        check_count(name, "text_width", text_width, 1, 2**16)
        check_count(name, "num_targets", num_targets, 1, 2**10)
        if aggregate not in ("mean", "lse"):
            raise ValueError(f"{name}: aggregate is mean or lse, got {aggregate!r}.")
        self.in_features, self.num_classes, self.tau, self.center = in_features, num_classes, float(tau), center
        self.projector = nn.Parameter(torch.empty(0, in_features, device=device, dtype=dtype))  # [E, D]
        self.projector = append_rows(self.projector, (int(text_width or 0), in_features), in_features)
        self.scale = nn.Parameter(torch.full((), float(scale), device=device, dtype=dtype))
        factory: Any = {"device": self.scale.device, "dtype": self.scale.dtype}  # peft puts parameters alone on the meta device
        self.register_buffer("class_targets", torch.zeros(num_classes, num_targets, len(self.projector), **factory))
        self.register_buffer("middle", torch.zeros(len(self.projector), **factory))

    def grow(self, class_names: Sequence[str]) -> None:
        new = self.class_targets.new_zeros(len(class_names), *self.class_targets.shape[1:])
        self.class_targets = torch.cat([self.class_targets, new])  # [C, K, E]
        self.num_classes += len(class_names)

    @torch.no_grad()
    def write_texts(self, rows: Tensor, projection: Tensor | None) -> None:
        """Copy in the targets of classes that have none: of all classes [C, K, E], and where P shall begin [E, D], or None.

        Raises ValueError where they are of another size, and for `center` where session 0 has one target alone.
        """
        mine = self.class_targets
        if rows.shape != mine.shape:
            raise ValueError(f"The targets are {tuple(rows.shape)}, and the head has room for {tuple(mine.shape)}.")
        new = ~mine.flatten(1).any(1)  # [C]
        rows = rows.to(mine)
        if new.all():
            self._begin(rows, projection)
        mine[new] = F.normalize(rows[new] - self.middle, dim=-1)

    def _begin(self, rows: Tensor, projection: Tensor | None) -> None:
        if self.center:
            if rows.shape[0] * rows.shape[1] < 2:
                raise ValueError("center subtracts the mean of session 0's targets, and there is one alone: give it two classes.")
            self.middle.copy_(rows.mean((0, 1)))
        if projection is not None and projection.shape == self.projector.shape:
            self.projector.copy_(projection)
        elif self.projector.shape[0] == self.in_features:
            self.projector.copy_(torch.eye(self.in_features))

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        projected = F.normalize(F.linear(features, self.projector), dim=-1)  # [B, E]
        count, each = self.class_targets.shape[:2]
        cosines = F.linear(projected, self.class_targets.flatten(0, 1)).unflatten(1, (count, each))  # [B, C, K]
        if each == 1:
            return self.scale * cosines[..., 0]  # [B, C]
        return self.scale * self.tau * ((cosines / self.tau).logsumexp(-1) - math.log(each))  # [B, C]

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Keep the scale positive."""
        self.scale.clamp_(min=LEAST_SCALE)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, targets={tuple(self.class_targets.shape[1:])}"
