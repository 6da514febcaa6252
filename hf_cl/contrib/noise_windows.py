"""Cross-entropy of disturbed features in a window of the session: noise early, or dropout late. Measured, nothing gained (docs/contrib.md).

    hf-cl train compose --import hf_cl.contrib.noise_windows --config demo --main '{type: noisy_cross_entropy, start: 0.5}'

Shapes: B batch, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.backbones import TextHead
from hf_cl.contracts import Context, Session, Trainer
from hf_cl.losses import LOSSES, MaskedCrossEntropy, image_uniforms

SHAPE = math.exp(1.5)
"""Of Beta(SHAPE, 1): where the official code of the noise mask begins its learned noise."""


class NoisyCrossEntropy(MaskedCrossEntropy):
    """Cross-entropy of what the head says of disturbed features; outside of its window `MaskedCrossEntropy` to the bit.

    Two papers of other inputs, on the features of an image, where no second forward of the backbone is needed:

    - `kind="beta"`, `stop=0.5`: Yavuz, Yang, "Policy Gradient-Driven Noise Mask" (arXiv 2406.14568; code:
      ogrenenmakine/Policy-Gradient-Driven-Noise-Mask), which heats a network by multiplicative noise m ~ Beta(exp alpha, exp beta) and then
      trains it on clean images. Here m ~ Beta(e^1.5, 1), divided by its mean. The paper's policy, which learns alpha and beta, is not here:
      its loss multiplies the classifier's own gradient by a sum of log densities, which may be negative, and noise that learns to lower
      cross-entropy learns to keep whatever predicts, shortcuts first.
    - `kind="dropout"`, `start=0.5`: Xue et al., "To Repeat or Not To Repeat" (NeurIPS 2023): dropout is the regulariser that helps where
      data are repeated, and it may be switched on when repetition begins to hurt.

    The window holds the epochs e with `start * epochs <= e < stop * epochs`. Draws are a function of seed, session, step and sample id.

    Args:
        kind: "dropout": each number is 0 with probability `rate`, the others are divided by 1 - rate; "beta": see above.
        rate: of dropout.
        start, stop: share of the session's epochs.
        epochs: of the session; `compose` gives it.
        classes, weight: as in `MaskedCrossEntropy`.

    Raises ValueError for values out of range, and in `begin_session` for a head that logits cannot be asked of by a feature vector alone.
    """

    name = "noisy_cross_entropy"

    def __init__(
        self,
        kind: Literal["dropout", "beta"] = "dropout",
        rate: float = 0.1,
        start: float = 0.0,
        stop: float = 1.0,
        *,
        epochs: int,
        classes: Literal["new", "seen"] = "seen",
        weight: float | Callable[[int], float] = 1.0,
    ) -> None:
        super().__init__(classes, weight)
        if kind not in ("dropout", "beta"):
            raise ValueError(f"NoisyCrossEntropy: kind is dropout or beta, got {kind!r}.")
        if not 0 < rate < 1:
            raise ValueError(f"NoisyCrossEntropy: rate lies between 0 and 1, got {rate}.")
        if not 0 <= start < stop <= 1:
            raise ValueError(f"NoisyCrossEntropy: the window goes from 0 <= start to stop <= 1, got {start} to {stop}.")
        if epochs < 1:
            raise ValueError(f"NoisyCrossEntropy: epochs must be at least 1, got {epochs}.")
        self.needs = self.needs | {"index"}
        self.kind, self.rate, self.start, self.stop, self.epochs = kind, rate, start, stop, epochs
        self._seed = 0
        self._head: Any = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        super().begin_session(trainer, session)
        head = trainer.head
        if isinstance(head, TextHead) or head.reads == "tokens" or head.reads_given:
            raise ValueError(
                f"noisy_cross_entropy asks the head for logits of disturbed feature vectors, and a {type(head).__name__} reads more or "
                "other than that: take another, such as linear."
            )
        self._head = head
        self._seed = int(torch.randint(2**62, (), generator=trainer.generator_for(self.name, session.id)))

    def disturbs(self, epoch: int) -> bool:
        """Whether an epoch lies in the window."""
        return self.start * self.epochs <= epoch < self.stop * self.epochs

    def noise(self, index: Tensor, width: int, step: int) -> Tensor:
        """[B, D] with the mean 1: what features are multiplied by."""
        uniform = image_uniforms(self._seed, step, index, width)  # [B, D]
        if self.kind == "dropout":
            return (uniform >= self.rate).float() / (1 - self.rate)
        return uniform ** (1 / SHAPE) * (1 + 1 / SHAPE)  # F(m) = m ^ SHAPE, and the mean is SHAPE / (SHAPE + 1)

    def __call__(self, ctx: Context) -> Tensor:
        if not self.disturbs(ctx.epoch):
            return super().__call__(ctx)
        noise = self.noise(ctx.batch["index"], ctx.features.shape[1], ctx.step)
        view = replace(ctx.views[0], logits=self._head(ctx.features * noise.to(ctx.features.dtype)))
        return super().__call__(replace(ctx, views=(view, *ctx.views[1:])))


LOSSES["noisy_cross_entropy"] = NoisyCrossEntropy
