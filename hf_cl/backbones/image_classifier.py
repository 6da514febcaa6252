"""What is prepared and trained: from pixels, or from features, to features, logits and embedding in one forward.

Shapes: B batch, D feature width, C classes seen so far, E embedding width, S image side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.contracts import Head, Outputs


class ImageClassifier(nn.Module):
    """What is prepared and trained: a base with adapter and head, from pixels to features, logits and embedding in one forward.

    Args:
        model: the base with the adapter inside.
        head_wrapper: at the classifier's place.
        take_extras: the tuner's, which hands out what else its adapter knows of the images.
    """

    def __init__(self, model: nn.Module, head_wrapper: HeadWrapper, take_extras: Callable[[], dict[str, Tensor]] = dict) -> None:
        super().__init__()
        self.model, self.take_extras = model, take_extras
        self._head_wrapper = (head_wrapper,)  # a tuple: it is registered below `model` already

    @property
    def head(self) -> Head:
        """The active adapter's."""
        wrapper = self._head_wrapper[0]
        return wrapper.head(wrapper.active_adapters[0])

    def forward(  # [B, 3, S, S] -> [B, D], [B, C], [B, E], extras [B, ...]
        self, pixel_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        wrapper = self._head_wrapper[0]
        wrapper.capture_features()
        logits = self.model(pixel_values=pixel_values).logits  # [B, C]
        features = wrapper.take_features()  # [B, D]
        if wrapper.disable_adapters:
            return features, logits, features, {}
        head = wrapper.head(wrapper.active_adapters[0])
        embedding = head.embed(features)
        return features, logits, embedding, {**self.take_extras(), **head.take_extras()}

    def logits_of(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """What the model makes of features that it would feed its classifier: the same as `outputs`, without the base."""
        return self._head_wrapper[0].judge(features)

    def outputs(self, pixel_values: Tensor) -> Outputs:
        """The same as `Outputs`, for callers outside of a wrapper that wants plain tuples."""
        return Outputs(*self(pixel_values))

    def read_names(self, class_names: Sequence[str]) -> None:
        """Nothing: this head knows its classes by their rows, which the tuner grows."""


class FeatureClassifier(nn.Module):
    """The head alone, on features: what a features phase prepares and trains."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(  # [B, D] -> [B, D], [B, C], [B, E], extras [B, ...]
        self, features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        logits, embedding = self.head.logits_and_embedding(features)
        return features, logits, embedding, self.head.take_extras()
