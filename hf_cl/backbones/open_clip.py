"""open_clip's vision tower as an image classifier.

Shapes: B batch, D feature width, S image side in pixels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, ViTImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

OPEN_CLIP_PREFIX = "open_clip:"


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
    """The vision tower of `<model>` (random weights) or `<model>/<weights>`, weights being a tag of open_clip or a checkpoint file."""
    model = create_open_clip(name)
    return OpenClipForImageClassification(model.visual, model.visual.output_dim, OPEN_CLIP_PREFIX + name)


def create_open_clip(name: str) -> Any:
    """open_clip's own model, both towers: `<model>` (random weights) or `<model>/<weights>`.

    Raises ValueError for a model that open_clip does not have.
    """
    open_clip = _import_open_clip()
    architecture, _, weights = name.partition("/")
    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {architecture!r}; `open_clip.list_models()` names them.")
    model = open_clip.create_model(architecture, pretrained=weights or None)
    model.name_or_path = OPEN_CLIP_PREFIX + name  # what peft writes down as the adapter's base
    return model


def open_clip_tokenizer(name: str) -> Any:
    """The tokenizer of `<model>` or `<model>/<weights>`."""
    return _import_open_clip().get_tokenizer(name.partition("/")[0])


def open_clip_processor(name: str) -> ViTImageProcessor:
    """The image processor of `<model>` or `<model>/<weights>`."""
    open_clip = _import_open_clip()
    architecture = name.partition("/")[0]
    side = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    return ViTImageProcessor(size={"height": side, "width": side}, resample=3, image_mean=mean, image_std=std)


def _import_open_clip() -> Any:
    try:
        import open_clip  # noqa: PLC0415 (an extra; importing it costs a second)
    except ImportError as error:
        raise ValueError("open_clip bases need the extra: pip install '.[open-clip]' in the clone of hf_cl.") from error
    return open_clip
