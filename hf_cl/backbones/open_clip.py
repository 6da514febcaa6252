"""open_clip's vision tower as an image classifier.

Shapes: B batch, D feature width, S image side in pixels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, PretrainedConfig, ViTImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from hf_cl.adapters.text_logits import OPEN_CLIP_PREFIX
from hf_cl.hints import nearest

_RANDOM = re.compile(r"random-([0-9]{1,9})")
_DEFAULTS = {"mean": None, "std": None, "interpolation": "bicubic", "resize_mode": "shortest"}
"""What open_clip does where its list of weights says nothing; no mean and deviation are OpenAI's."""
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "random": Image.Resampling.BICUBIC}


class OpenClipConfig(PretrainedConfig):
    """Just enough config for peft and the head: an open_clip model has none."""

    model_type = "open_clip"


class OpenClipForImageClassification(nn.Module):
    """open_clip's vision tower as an image classifier. Features are the image embedding before normalisation."""

    def __init__(self, visual: nn.Module, feature_width: int, name: str) -> None:
        super().__init__()
        self.config = OpenClipConfig(num_labels=0)  # pyright: ignore[reportCallIssue]
        self.config._name_or_path = name
        self.name_or_path = name
        self.feature_width = feature_width
        self.num_labels = 0
        self.visual = visual
        self.classifier = nn.Identity()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:  # [B, 3, S, S]
        features = self.visual(pixel_values)  # [B, D]
        return ImageClassifierOutput(logits=self.classifier(features))


def load_open_clip(name: str) -> OpenClipForImageClassification:
    """The vision tower of `<model>/<weights>`; see `create_open_clip`."""
    model = create_open_clip(name)
    return OpenClipForImageClassification(model.visual, model.visual.output_dim, OPEN_CLIP_PREFIX + name)


def create_open_clip(name: str) -> Any:
    """open_clip's own model, both towers: `<model>/<weights>`, weights being a tag of open_clip, a checkpoint file, or `random-<seed>`.

    The last are random numbers that the seed makes again wherever an adapter is loaded: the name goes into the adapter.

    Raises ValueError for a model or weights that open_clip does not have, and for a model without weights, which would be another at every
    load.
    """
    open_clip = _import_open_clip()
    architecture, weights = _parsed(name)
    seed = _RANDOM.fullmatch(weights)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(int(seed[1]))
        model = open_clip.create_model(architecture, pretrained=None if seed is not None else weights)
    model.name_or_path = OPEN_CLIP_PREFIX + name  # what peft writes down as the adapter's base
    return model


def _parsed(name: str) -> tuple[str, str]:
    """(architecture, weights). Raises ValueError."""
    open_clip = _import_open_clip()
    architecture, _, weights = name.partition("/")
    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {architecture!r}; `open_clip.list_models()` names them.")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    listed = f"its weights are {', '.join(tags[:8])}{', ...' if len(tags) > 8 else ''}" if tags else "open_clip lists none for it"
    if not weights:
        raise ValueError(
            f"{OPEN_CLIP_PREFIX}{name} names no weights, and would be random, another at every load. Name them: {OPEN_CLIP_PREFIX}"
            f"{architecture}/<weights>; {listed}. For a trial, {OPEN_CLIP_PREFIX}{architecture}/random-0 is random by a seed."
        )
    if weights not in tags and not _RANDOM.fullmatch(weights) and not Path(weights).is_file():
        near = nearest(weights, tags)
        raise ValueError(f"open_clip has no weights {weights!r} of {architecture}, and there is no such file; {listed}.{near}")
    return architecture, weights


def open_clip_tokenizer(name: str) -> Any:
    """The tokenizer of `<model>/<weights>`."""
    return _import_open_clip().get_tokenizer(name.partition("/")[0])


def open_clip_processor(name: str) -> Any:
    """The image processor of `<model>/<weights>`: size of the model; mean, deviation, interpolation and crop as open_clip lists them for
    the weights. Nothing is fetched.

    Raises ValueError as `create_open_clip`, and for a way of resizing that transformers has no processor for.
    """
    open_clip = _import_open_clip()
    architecture, weights = _parsed(name)
    listed = {**_DEFAULTS, **{key: value for key, value in open_clip.get_pretrained_cfg(architecture, weights).items() if key in _DEFAULTS}}
    size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    values = {
        "resample": _RESAMPLE[listed["interpolation"]],
        "image_mean": list(listed["mean"] or open_clip.OPENAI_DATASET_MEAN),
        "image_std": list(listed["std"] or open_clip.OPENAI_DATASET_STD),
    }
    if listed["resize_mode"] == "squash":
        return ViTImageProcessor(size={"height": height, "width": width}, **values)
    if listed["resize_mode"] != "shortest" or height != width:
        raise ValueError(
            f"{name} resizes by {listed['resize_mode']!r} to {height} x {width}, which no image processor of transformers does."
        )
    return CLIPImageProcessor(size={"shortest_edge": height}, crop_size={"height": height, "width": width}, **values)


def _import_open_clip() -> Any:
    try:
        import open_clip  # noqa: PLC0415 (an extra; importing it costs a second)
    except ImportError as error:
        raise ValueError("open_clip bases need the extra: pip install '.[open-clip]' in the clone of hf_cl.") from error
    return open_clip
