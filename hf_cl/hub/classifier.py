"""A base with one adapter and its head: from images to logits.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor

from hf_cl.adapters.config import HeadedConfig
from hf_cl.backbones import classifier_of, load_backbone, load_processor, load_tokenizer, load_two_towers
from hf_cl.backbones.loading import shared_name
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.predictions import Predictor
from hf_cl.hub.strangers import check_processor, clear_errors
from hf_cl.memory.novelty import NoveltyScore, read_novelty
from hf_cl.own_parts import naming_what_is_missing
from hf_cl.pictures import to_rgb

logger = logging.getLogger(__name__)

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Classifier(Predictor):
    """A base with one adapter and its head, in eval mode.

    `class_names` are in order of arrival; `model` is the PeftModel, `processor` the image processor it was evaluated with. Where the class
    names are the head, their text features are computed at the first prediction and kept.
    """

    def __init__(
        self,
        model: PeftModel,
        processor: Any,
        tokenizer: Any,
        class_names: Sequence[str],
        device: torch.device,
        novelty: NoveltyScore | None = None,
    ) -> None:
        self.model = model.to(device).eval()  # pyright: ignore[reportCallIssue, reportArgumentType]
        self.processor, self.tokenizer, self.class_names, self.device = processor, tokenizer, list(class_names), device
        self.classifier = classifier_of(self.model, tokenizer).eval()
        self.novelty = novelty
        self._dtype = next(self.model.get_base_model().parameters()).dtype

    def set_domain(self, domain: str | float | None) -> None:
        """Say of which domain all images are from here on, by its name, to an adapter with something of its own for each (SESSION_NORM).

        None: each image tells its own. Raises ValueError for a domain that it does not know, and for an adapter that has none.
        """
        tuner: Any = self.model.base_model
        tuner.set_domain(domain)

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C] float32, on the device, for B images of any size and mode."""
        pixels = self.processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]  # [B, 3, S, S]
        return self.logits_of(pixels)

    def logits_of(self, pixels: Tensor) -> Tensor:
        return self.classifier.outputs(pixels.to(self.device, self._dtype)).logits.float()  # [B, C]

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.classifier.head.probabilities(logits)

    def judged(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        outputs = self.classifier.outputs(pixels.to(self.device, self._dtype))
        if self.novelty is None:
            return outputs.logits.float(), None
        return outputs.logits.float(), self.novelty_of(outputs.features, outputs.logits)

    def novelty_of(self, features: Tensor, logits: Tensor) -> Tensor:
        """[B, D], [B, C] -> [B] how unlike the classes, where a score lies beside the adapter; above `novelty.threshold`: none of them."""
        assert self.novelty is not None
        config: Any = self.model.peft_config["default"]
        return self.novelty(self.classifier.head.embed(features), logits * (config.temperature or 1.0))


class Opener:
    """Opens adapters on one device, in one precision; each base is in memory once, whatever number of adapters asks for it.

    Args:
        device: "cpu", "cuda:1", ...; None: the GPU where there is one.
        dtype: of the base: float32, float16 or bfloat16; adapter and head stay float32.
        base_model: where the base is, if not where an adapter says.
        shared: whether several adapters will ask: a base then lends its weights to a structure for each of them. It is left as it is:
            what an adapter trains beside it lies in the adapter.

    Raises ValueError for a device or dtype that is none.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        base_model: str | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self.device, self.dtype, self.base_model, self.shared = _device(device), _dtype(dtype), base_model, shared
        self._bases: dict[tuple[str, str | None, bool], Any] = {}

    def lend(self, base: nn.Module, name: str, revision: str | None, two_towers: bool) -> None:
        """Take a base that is in memory already and carries no adapter yet."""
        self._bases[name, revision, two_towers] = sharing(base)

    def open(self, adapter: str | Path, revision: str | None = None) -> Classifier:
        """The classifier that an adapter makes of its base. Raises as `hf_cl.load`."""
        folder = adapter_folder(adapter, revision)
        with naming_what_is_missing(folder), clear_errors(str(adapter)):
            config = read_config(folder, adapter)
            name = self.base_model or shared_name(config.base_model_name_or_path or "")
            at = None if self.base_model else config.revision
            base = self._base(name, at, config.has_text_head)
            model = PeftModel.from_pretrained(base, str(folder))
            tokenizer = load_tokenizer(name, revision=at) if config.has_text_head else None
            processor = _processor(folder, adapter, name, at)
            return Classifier(model, processor, tokenizer, config.class_names, self.device, read_novelty(folder, len(config.class_names)))

    def _base(self, name: str, revision: str | None, two_towers: bool) -> Any:
        key = (name, revision, two_towers)
        found = self._bases.get(key)
        if found is None:
            found = (load_two_towers if two_towers else load_backbone)(name, revision=revision).to(self.dtype)
        if not self.shared:
            return found
        self._bases[key] = found
        return sharing(found)


def sharing(model: nn.Module) -> nn.Module:
    """A copy of a model's structure over the same weights: its own modules and config, no tensor of its own."""
    return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def read_config(folder: Path, adapter: str | Path) -> Any:
    """The config of an adapter of hf_cl. Raises ValueError for what is none."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    kind = config.peft_type
    if not isinstance(config, HeadedConfig) or not config.class_names:
        raise ValueError(f"{adapter} is no adapter with class names (peft type {kind}).")
    return config


def _processor(folder: Path, adapter: str | Path, base: str, revision: str | None) -> Any:
    """The one beside the adapter; the base's where peft's own `save_pretrained` wrote none."""
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        logger.warning("%s has no image processor beside it (peft saves none); pictures are prepared as its base %s says.", adapter, base)
        return load_processor(base, revision=revision)
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
