"""A linear head under an adapter that knows an image's session.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cl.heads.linear import LinearHead

BEHIND = 1e3
"""By how much the classes of other sessions stand behind those of the image's own: more than any logits differ, and a number, so that they
keep their order among themselves."""


class SessionLinearHead(LinearHead):
    """An image is classified among the classes of the session that the adapter found for it. Rows of different sessions were trained on
    features of different adapters and never against each other, so they are not compared.

    `session` is what HYPER_LORA hands out in eval mode; without it (in training, on another adapter) this is the linear head.

    Args:
        in_features, num_classes, bias, device, dtype: as `LinearHead`.
    """

    reads_given = frozenset({"session"})
    session_of: Tensor
    """[C] the session of each row."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.register_buffer("session_of", torch.zeros(num_classes, dtype=torch.int64, device=self.weight.device))

    @property
    def own_temperature(self) -> float | None:
        """A temperature is found on features, which do not say whose an image is."""
        return 1.0

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        newest = self.session_of[-1:] + 1 if len(self.session_of) else self.session_of.new_zeros(1)
        self.session_of = torch.cat([self.session_of, newest.expand(len(class_names))])  # [C]

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        logits = super().forward(features)
        session = self.given.get("session")  # [B], or [1] for all
        return logits if session is None else logits - BEHIND * (self.session_of != session[:, None])

    def as_linear(self) -> nn.Linear | None:
        return None
