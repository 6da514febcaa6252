"""What the two towers of a CLIP-like model are asked: embeddings of images and of texts, in transformers' way and in open_clip's.

Shapes: B images, C texts, T text positions, E embedding width, S image side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.pseudo_words import Words, placed


class TextBatch(NamedTuple):
    """Tokenised texts."""

    input_ids: Tensor  # [C, T]
    attention_mask: Tensor | None  # [C, T]
    words: Words | None = None
    """What stands at the markers among the ids."""


def encode_images(model: nn.Module, pixel_values: Tensor, **inputs: Any) -> Tensor:
    """[B, 3, S, S] -> [B, E], not normalised. `inputs` are further ones that transformers' tower takes (`interpolate_pos_encoding`)."""
    tower: Any = model
    if family_of(model) == OPEN_CLIP:
        return tower.encode_image(pixel_values.to(tower.visual.conv1.weight.dtype), **inputs)
    return tower.get_image_features(pixel_values=pixel_values, **inputs).pooler_output


def encode_texts(model: nn.Module, texts: TextBatch) -> Tensor:
    """[C, T] -> [C, E], not normalised."""
    with placed(model, texts.words):
        return _encoded(model, texts)


def _encoded(model: nn.Module, texts: TextBatch) -> Tensor:
    tower: Any = model
    if family_of(model) == OPEN_CLIP:
        return tower.encode_text(texts.input_ids)
    # CLIP's tower is causal: the end of a text never sees the padding behind it. transformers looks at a mask in every forward to see
    # whether it matters, and the host would wait for the device.
    mask = None if family_of(model) == "clip" else texts.attention_mask
    return tower.get_text_features(input_ids=texts.input_ids, attention_mask=mask).pooler_output


def context_length(model: nn.Module) -> int:
    """Tokens that the text tower can read, BOS and EOS included."""
    tower: Any = model
    return tower.context_length if family_of(model) == OPEN_CLIP else tower.config.text_config.max_position_embeddings


def pads_to_context(model: nn.Module) -> bool:
    """Whether the text tower wants texts padded up to the end (SigLIP was trained so and pools there)."""
    return family_of(model) in (OPEN_CLIP, "siglip")
