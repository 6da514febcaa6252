"""How far a changed model says of pictures what it said before.

Shapes: B batch, C classes, S image side, n pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hf_cl.hub.inputs import inputs_of

MOST = 500
"""Pictures that are looked at; further ones are passed over."""
_BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """Of a changed model with the one before."""

    kept: float
    """Share of pictures that still get the same class."""
    divergence: float
    """Mean KL divergence of the probabilities from those before."""


class Judge:
    """What a model said of pictures, to compare others with.

    Args:
        pictures: what `hf_cl.load(...).predict` takes.
        processor: the image processor.
        logits_of: pixels [B, 3, S, S] -> logits [B, C], of the model as it is.

    Raises ValueError where there is no picture, and for one that cannot be read.
    """

    def __init__(self, pictures: Any, processor: Any, logits_of: Callable[[Tensor], Tensor]) -> None:
        opened = (picture.open() for picture in islice(inputs_of(pictures), MOST))
        self._pixels: list[Tensor] = []
        while batch := list(islice(opened, _BATCH)):
            self._pixels.append(processor(images=batch, return_tensors="pt")["pixel_values"])  # [B, 3, S, S]
        if not self._pixels:
            raise ValueError("There is no picture to compare predictions on.")
        self._before = self._said(logits_of, self._pixels)  # [n, C]

    def __len__(self) -> int:
        return len(self._before)

    @property
    def some_pixels(self) -> Tensor:
        """[B, 3, S, S] of the first pictures."""
        return self._pixels[0]

    def agreement(self, logits_of: Callable[[Tensor], Tensor], most: int = MOST) -> Agreement:
        """Of a model with the one before, on at most so many pictures."""
        pixels = self._pixels[: -(-most // _BATCH)]
        after = self._said(logits_of, pixels)
        before = self._before[: len(after)]
        divergence = (before.exp() * (before - after)).nan_to_num(0.0).sum(-1).mean()  # a probability of 0 says nothing
        same = before.argmax(-1) == after.argmax(-1)  # [n]
        return Agreement(float(same.double().mean()), max(0.0, float(divergence)))

    @staticmethod
    @torch.no_grad()
    def _said(logits_of: Callable[[Tensor], Tensor], pixels: Iterable[Tensor]) -> Tensor:  # -> [n, C]
        return torch.cat([logits_of(batch).float().log_softmax(-1).cpu() for batch in pixels])
