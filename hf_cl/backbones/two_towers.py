"""One view of models with an image and a text tower: transformers' CLIP and SigLIP, and open_clip.

Shapes: B images, C texts, T text positions, E embedding width, S image side.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForZeroShotImageClassification, AutoTokenizer

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.text_head import has_two_towers
from hf_cl.backbones.loading import DEMO, place_of, weights_refused
from hf_cl.backbones.open_clip import OPEN_CLIP_PREFIX, create_open_clip, open_clip_tokenizer


class TextBatch(NamedTuple):
    """Tokenised texts."""

    input_ids: Tensor  # [C, T]
    attention_mask: Tensor | None  # [C, T]


def load_two_towers(name: str, *, revision: str | None = None) -> nn.Module:
    """A base with both towers.

    Args:
        name: a Hub id or folder of a CLIP or SigLIP model, `open_clip:<model>/<weights>`, or `demo_clip`.
        revision: the Hub revision of the base.

    Raises ValueError, naming what was asked, where there is no such base.
    """
    if name.startswith(OPEN_CLIP_PREFIX):
        return create_open_clip(name.removeprefix(OPEN_CLIP_PREFIX))
    if name == DEMO:
        raise ValueError(
            "The base `demo` is a ViT without a text tower. A text head needs a CLIP or SigLIP model: `demo_clip`, a Hub id or a folder."
        )
    try:
        return AutoModelForZeroShotImageClassification.from_pretrained(place_of(name), revision=revision, trust_remote_code=False)
    except (UnpicklingError, SafetensorError) as error:
        raise ValueError(weights_refused(name)) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no base with an image and a text tower under the name {name!r}: {error}") from error


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """The tokenizer that belongs to a base: the text tower reads class names through it.

    Raises ValueError where there is none.
    """
    if name.startswith(OPEN_CLIP_PREFIX):
        return open_clip_tokenizer(name.removeprefix(OPEN_CLIP_PREFIX))
    try:
        return AutoTokenizer.from_pretrained(place_of(name), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no tokenizer under the name {name!r}; a text head reads class names through one.") from error


def encode_images(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """[B, 3, S, S] -> [B, E], not normalised."""
    tower: Any = model
    if family_of(model) == OPEN_CLIP:
        return tower.encode_image(pixel_values.to(tower.visual.conv1.weight.dtype))
    return tower.get_image_features(pixel_values=pixel_values).pooler_output


def encode_texts(model: nn.Module, texts: TextBatch) -> Tensor:
    """[C, T] -> [C, E], not normalised."""
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


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute the activations of each layer in the backward pass, in transformers' and in open_clip's way."""
    tower: Any = model
    if family_of(model) != OPEN_CLIP:
        tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif has_two_towers(model):
        tower.set_grad_checkpointing(True)
    else:
        tower.visual.set_grad_checkpointing(True)
