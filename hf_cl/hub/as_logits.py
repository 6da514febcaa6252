"""A loaded classifier as a function from pixels to logits, and the comparison of what was exported with it.

Shapes: B batch, C classes, E embedding width, S image side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hf_cl.adapters.towers import encode_images
from hf_cl.backbones import ClipClassifier
from hf_cl.hub.classifier import Classifier

TOLERANCE = 1e-4
"""Largest difference of a logit or log-probability, as a share of the largest (or of 1)."""


class Logits(nn.Module):
    """The classifier from pixels to logits and nothing else; without gradient. Texts are encoded once, here."""

    text: Tensor | None

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model, inner = classifier.model.get_base_model(), classifier.classifier
        self.requires_grad_(False)
        self._scaled: Callable[[Tensor], Tensor] | None = None
        text = None
        if isinstance(inner, ClipClassifier):
            with torch.no_grad():
                text = inner.head.text_features(range(inner.head.num_classes))  # [C, E]
            head = inner.head
            self._scaled = lambda cosine: head.calibrated(head.scaled(cosine))
        self.register_buffer("text", text)

    def forward(self, pixel_values: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, C]
        if self.text is None or self._scaled is None:
            return self.model(pixel_values=pixel_values).logits
        image = F.normalize(encode_images(self.model, pixel_values), dim=-1)  # [B, E]
        return self._scaled(image @ self.text.T)


def pixels_of_noise(classifier: Classifier) -> Tensor:
    """[3, 3, S, S] what the image processor makes of noise."""
    noise = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    return classifier.processor(images=[Image.fromarray(one) for one in noise], return_tensors="pt")["pixel_values"]


@torch.no_grad()
def compare(wanted: Tensor, found: Tensor, what: str) -> None:
    """Raise RuntimeError where an export does not give what it should."""
    off = (wanted - found).abs().max() / max(1.0, wanted.abs().max().item())
    if wanted.shape != found.shape or not off <= TOLERANCE:
        raise RuntimeError(f"{what} does not give what the adapter gives: they differ by up to {off:.1e} of the largest. It was deleted.")


def kind_of(classifier: Classifier) -> str:
    """The adapter's peft type."""
    kind: Any = classifier.model.peft_config["default"].peft_type
    return kind.value
