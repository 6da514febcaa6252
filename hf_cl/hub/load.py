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
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor

from hf_cl.adapters.config import HeadedConfig
from hf_cl.backbones import classifier_of, load_backbone, load_tokenizer, load_two_towers


@dataclass(frozen=True)
class Prediction:
    """A class name and its softmax probability."""

    name: str
    score: float


class Classifier:
    """A base with one adapter and its head, in eval mode. `class_names` are in order of arrival; `model` is the PeftModel."""

    def __init__(self, model: PeftModel, processor: Any, tokenizer: Any, class_names: Sequence[str], device: torch.device) -> None:
        self.model = model.to(device).eval()  # pyright: ignore[reportCallIssue, reportArgumentType]
        self.processor, self.class_names, self.device = processor, list(class_names), device
        self._classify = classifier_of(self.model, tokenizer).eval()

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C] for B images of any size."""
        pixels = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]  # [B, 3, S, S]
        return self._classify.outputs(pixels.to(self.device)).logits

    def predict(self, images: Sequence[str | Path | Image.Image], top_k: int = 5, batch_size: int = 32) -> list[list[Prediction]]:
        """The `top_k` most probable classes of each image, best first.

        Raises ValueError, naming the file, for one that is no image.
        """
        top_k = min(top_k, len(self.class_names))
        predictions: list[list[Prediction]] = []
        for start in range(0, len(images), batch_size):
            batch = [_open(image) for image in images[start : start + batch_size]]
            scores, classes = self.logits(batch).float().softmax(-1).topk(top_k)  # [B, top_k]
            for row_scores, row_classes in zip(scores.tolist(), classes.tolist(), strict=True):
                predictions.append([Prediction(self.class_names[c], s) for c, s in zip(row_classes, row_scores, strict=True)])
        return predictions


def _open(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{image} cannot be read as an image: {error}") from error


def load(adapter: str | Path, *, revision: str | None = None, device: str | torch.device | None = None) -> Classifier:
    """The classifier that an adapter makes of its base.

    Args:
        adapter: a Hub id, an adapter folder, or a run folder (its last session).
        revision: of the adapter: `session-3` is the model as it was after session 3.
        device: the GPU where there is one, by default.

    Raises ValueError where there is no adapter of hf_cl, or its base cannot be found.
    """
    where = str(_last_session(Path(adapter)) if (Path(adapter) / "adapters").is_dir() else adapter)
    if not Path(where).is_dir() and (where.startswith((".", "/", "~")) or where.count("/") != 1 or Path(where).parent.is_dir()):
        raise ValueError(f"There is no folder {where!r}, and a Hub id has the form owner/name.")
    config: Any = PeftConfig.from_pretrained(where, revision=revision)
    if not issubclass(type(config), HeadedConfig) or config.class_names is None:
        raise ValueError(f"{adapter} is no adapter with class names (peft type {config.peft_type}).")
    text_head = (config.head or {}).get("type") == "text"
    load_base = load_two_towers if text_head else load_backbone
    base_name = config.base_model_name_or_path or ""
    model = PeftModel.from_pretrained(load_base(base_name, revision=config.revision), where, revision=revision)
    tokenizer = load_tokenizer(base_name, revision=config.revision) if text_head else None
    processor = AutoImageProcessor.from_pretrained(where, revision=revision)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Classifier(model, processor, tokenizer, config.class_names, device)


def _last_session(run: Path) -> Path:
    sessions = sorted((run / "adapters").glob("session-*"), key=lambda path: int(path.name.removeprefix("session-")))
    if not sessions:
        raise ValueError(f"{run} is a run folder without an adapter: no session has ended yet.")
    return sessions[-1]
