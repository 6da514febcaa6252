"""From an adapter, by Hub id or folder, to names for images.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from hf_cl.adapters.config import HeadedConfig
from hf_cl.backbones import classifier_of, load_backbone, load_tokenizer, load_two_towers
from hf_cl.backbones.loading import shared_name
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.strangers import check_processor, clear_errors
from hf_cl.own_parts import naming_what_is_missing
from hf_cl.pictures import open_image, to_rgb

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Prediction:
    """A class name and its softmax probability."""

    name: str
    score: float


class Classifier:
    """A base with one adapter and its head, in eval mode.

    `class_names` are in order of arrival; `model` is the PeftModel, `processor` the image processor it was evaluated with. Where the class
    names are the head, their text features are computed at the first prediction and kept.
    """

    def __init__(self, model: PeftModel, processor: Any, tokenizer: Any, class_names: Sequence[str], device: torch.device) -> None:
        self.model = model.to(device).eval()  # pyright: ignore[reportCallIssue, reportArgumentType]
        self.processor, self.tokenizer, self.class_names, self.device = processor, tokenizer, list(class_names), device
        self.classifier = classifier_of(self.model, tokenizer).eval()
        self._dtype = next(self.model.get_base_model().parameters()).dtype

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C] float32, on the device, for B images of any size and mode."""
        pixels = self.processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]  # [B, 3, S, S]
        return self.classifier.outputs(pixels.to(self.device, self._dtype)).logits.float()

    def predict(self, images: Sequence[str | Path | Image.Image], top_k: int = 5, batch_size: int = 32) -> list[list[Prediction]]:
        """The `top_k` most probable classes of each image, best first; all of them where there are fewer. One forward per `batch_size`.

        Raises ValueError, naming the file, for one that is no image, and for a `top_k` or `batch_size` below 1.
        """
        if min(top_k, batch_size) < 1:
            raise ValueError(f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}.")
        if isinstance(images, (str, Path, Image.Image)):
            raise ValueError("predict takes a list of images; for one image, [image].")
        top_k = min(top_k, len(self.class_names))
        predictions: list[list[Prediction]] = []
        for start in range(0, len(images), batch_size):
            batch = [_open(image) for image in images[start : start + batch_size]]
            scores, classes = self.classifier.head.probabilities(self.logits(batch)).topk(top_k)  # [B, top_k]
            for row_scores, row_classes in zip(scores.tolist(), classes.tolist(), strict=True):
                predictions.append([Prediction(self.class_names[c], s) for c, s in zip(row_classes, row_scores, strict=True)])
        return predictions


def _open(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return open_image(image)


def load(
    adapter: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base_model: str | None = None,
) -> Classifier:
    """The classifier that an adapter makes of its base, which the adapter names.

    Args:
        adapter: a Hub id, an adapter folder, or a run folder (its last session). What is cached needs no network (`HF_HUB_OFFLINE=1`).
        revision: of the Hub id or run folder: `session-3` is the model as it was after session 3.
        device: the GPU where there is one, by default.
        dtype: of the base: float32 (default), float16 or bfloat16. Adapter and head stay float32.
        base_model: where the base is, if not where the adapter says.

    Raises ValueError where there is no adapter of hf_cl, its files are damaged or do not fit together, its base cannot be found, or device
    or dtype are none; HubError, which is one, for what the Hub did not give. Nothing in the files is executed.
    """
    place, precision = _device(device), _dtype(dtype)
    folder = adapter_folder(adapter, revision)
    with naming_what_is_missing(folder), clear_errors(str(adapter)):
        config = _config(folder, adapter)
        name = base_model or shared_name(config.base_model_name_or_path or "")
        at = None if base_model else config.revision
        base = (load_two_towers if config.has_text_head else load_backbone)(name, revision=at).to(precision)
        model = PeftModel.from_pretrained(base, str(folder))
        tokenizer = load_tokenizer(name, revision=at) if config.has_text_head else None
        return Classifier(model, _processor(folder, adapter), tokenizer, config.class_names, place)


def _config(folder: Path, adapter: str | Path) -> Any:
    config: Any = PeftConfig.from_pretrained(str(folder))
    kind = config.peft_type
    if not isinstance(config, HeadedConfig) or not config.class_names:
        raise ValueError(f"{adapter} is no adapter with class names (peft type {kind}).")
    return config


def _processor(folder: Path, adapter: str | Path) -> Any:
    with clear_errors(str(adapter), "has no image processor that can be read"):
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        check_processor(processor)
        return processor


def _device(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device; say cpu, cuda or cuda:1.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no GPU that torch can use; leave device out, or say cpu.")
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    precision = DTYPES.get(dtype or "float32") if not isinstance(dtype, torch.dtype) else dtype
    if precision not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    return precision  # pyright: ignore[reportReturnType]
