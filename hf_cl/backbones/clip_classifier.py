"""Models with two towers as classifiers: the class names are the head.

Shapes: B images, C classes, E embedding width, S image side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.learned_words import LearnedWordsHead
from hf_cl.adapters.text_classifier import TextHead, unit
from hf_cl.adapters.towers import encode_images
from hf_cl.backbones.image_classifier import ImageClassifier
from hf_cl.contracts import Outputs
from hf_cl.heads.text import TextHeadSpec


class ClipClassifier(nn.Module):
    """A base with two towers and its adapter, from pixels to image embedding, logits and normalised embedding in one forward.

    The counterpart of `ImageClassifier` for adapters whose head is `{"type": "text"}`.

    Args:
        model: the base with the adapter inside (`peft_model.get_base_model()`).
        config: the adapter's config.
        tokenizer: the base's own.
        take_extras: the tuner's, which hands out what else its adapter knows of the images.
    """

    def __init__(self, model: nn.Module, config: HeadedConfig, tokenizer: Any, take_extras: Callable[[], dict[str, Tensor]] = dict) -> None:
        super().__init__()
        self.model, self.take_extras = model, take_extras
        learns = TextHeadSpec.of(config.head or {}).learns_words
        self.head = (LearnedWordsHead if learns else TextHead)(model, config, tokenizer)

    def forward(  # [B, 3, S, S] -> [B, E], [B, C], [B, E], extras [B, ...]
        self, pixel_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        features = encode_images(self.model, pixel_values)  # [B, E]
        return features, self.head(features), unit(features), self.take_extras()

    def logits_of(self, features: Tensor) -> Tensor:  # [B, E] -> [B, C]
        """Logits of image embeddings, as `outputs` has them."""
        return self.head(features)

    def outputs(self, pixel_values: Tensor) -> Outputs:
        """The same as `Outputs`, for callers outside of a wrapper that wants plain tuples."""
        return Outputs(*self(pixel_values))

    def read_names(self, class_names: Sequence[str]) -> None:
        """Tokenise the class names that the tuner is going to grow by. Raises ValueError for names that `TextHead.grow` refuses."""
        self.head.grow(class_names)


AnyClassifier = ImageClassifier | ClipClassifier
"""From pixels to features, logits and embedding, whatever the head."""


def classifier_of(model: PeftModel, tokenizer: Any = None, adapter_name: str = "default") -> AnyClassifier:
    """The classifier that an adapter's head calls for: its own classifier module, or the text tower.

    Args:
        model: with the adapter inside.
        tokenizer: the base's own; a text head needs it.
        adapter_name: whose head.

    Raises ValueError for a text head without a tokenizer.
    """
    config: Any = model.peft_config[adapter_name]
    tuner: Any = model.base_model
    if not config.has_text_head:
        return ImageClassifier(model.get_base_model(), tuner.head_wrapper(), tuner.take_extras)
    if tokenizer is None:
        raise ValueError("A text head reads class names through the base's tokenizer, and none was given.")
    return ClipClassifier(model.get_base_model(), config, tokenizer, tuner.take_extras)
