"""A linear head under an adapter that knows an image's session.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

from torch import Tensor, nn

from hf_cl.heads.linear import LinearHead

BEHIND = 1e3
"""By how much the classes of other sessions stand behind those of the image's own: more than any logits differ, and a number, so that they
keep their order among themselves."""


class SessionLinearHead(LinearHead):
    """An image is classified among the classes of the session that the adapter found for it. Rows of different sessions were trained on
    features of different adapters and never against each other, so they are not compared.

    `own_classes` is what HYPER_LORA hands out in eval mode; without it (in training, on another adapter) this is the linear head, whose
    settings it has.
    """

    reads_given = frozenset({"own_classes"})

    @property
    def own_temperature(self) -> float | None:
        """A temperature is found on features, which do not say whose an image is."""
        return 1.0

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        logits = super().forward(features)
        own = self.given.get("own_classes")  # [B, C], or [1, C] for all
        return logits if own is None else logits - BEHIND * ~own

    def as_linear(self) -> nn.Linear | None:
        return None
