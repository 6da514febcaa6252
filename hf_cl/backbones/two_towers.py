"""Loading models with an image and a text tower: transformers' CLIP and SigLIP, and open_clip."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForZeroShotImageClassification, AutoTokenizer

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.text_head import has_two_towers
from hf_cl.backbones.loading import DEMO, place_of, weights_refused
from hf_cl.backbones.open_clip import OPEN_CLIP_PREFIX, create_open_clip, open_clip_tokenizer


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


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute the activations of each layer in the backward pass, in transformers' and in open_clip's way."""
    tower: Any = model
    if family_of(model) != OPEN_CLIP:
        tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif has_two_towers(model):
        tower.set_grad_checkpointing(True)
    else:
        tower.visual.set_grad_checkpointing(True)
