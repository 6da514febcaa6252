"""An adapter merged into its base: a model for transformers alone.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_cl.adapters.unloaded import LINEAR_HEAD
from hf_cl.backbones import ClipClassifier
from hf_cl.hub.agreement import Judge
from hf_cl.hub.as_logits import Logits, compare, kind_of, pixels_of_noise
from hf_cl.hub.classifier import Classifier
from hf_cl.hub.skipped_blocks import SkippedBlocks, blocks_of, skip_blocks

CANNOT_MERGE = {
    "PROMPT_POOL": "its rows differ from image to image, and no weights of the base can stand for them",
    "ONE_PROMPT": "its prefix rows join the keys and values of attention, and no weights of the base can stand for them",
    "CPE_CLIP": "its prompts are tokens beside those of image and text, and no weights of the base can stand for them",
}
"""peft type -> why there is no merged model, unless the adapter is its head alone."""


def write_merged(
    classifier: Classifier, folder: Path, judge: Judge | None = None, skip: Sequence[int] | str | None = None, keep: float = 1.0
) -> SkippedBlocks | None:
    """Write the merged model, without the blocks that are to be skipped; returns what skipping them costs, where some are.

    Raises ValueError for what cannot be merged, and as `skip_blocks`; RuntimeError where the written model gives something else.
    """
    kind, base = kind_of(classifier), classifier.model.get_base_model()
    if kind in CANNOT_MERGE and not _is_empty(classifier):
        raise ValueError(f"{kind} cannot be merged: {CANNOT_MERGE[kind]}. Export it as onnx.")
    if not isinstance(base, PreTrainedModel):
        raise ValueError(f"{type(base).__name__} is no model of transformers, so nothing could load it merged. Export it as onnx.")
    pixels = pixels_of_noise(classifier)
    wanted = _log_probabilities(classifier, pixels)
    if judge is not None:
        blocks_of(base)  # refused before anything is merged
    merged: Any = classifier.model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    name_classes(merged.config, classifier.class_names)
    skipped = None
    if judge is not None and skip is not None:
        skipped = skip_blocks(merged, judge, skip, keep)
        with torch.no_grad():
            wanted = merged(pixel_values=pixels).logits.log_softmax(-1)
    merged.save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).eval()
    compare(wanted, again(pixel_values=pixels).logits.log_softmax(-1), "The merged model")
    return skipped


def name_classes(config: Any, names: Sequence[str]) -> None:
    """Write class names into a model's config."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    if config.model_type == "timm_wrapper":  # it keeps the names of the checkpoint's own classes beside
        config.label_names = list(names)


def _is_empty(classifier: Classifier) -> bool:
    """Whether the adapter is its head alone, so that there is nothing to merge."""
    prefix: Any = classifier.model.base_model.prefix
    return not any(prefix in name for name, _ in classifier.model.named_parameters())


@torch.no_grad()
def _log_probabilities(classifier: Classifier, pixels: Tensor) -> Tensor:
    """[B, C] what the merged model must give. Raises ValueError for a head that no linear layer and softmax can stand for."""
    head = classifier.classifier.head
    if isinstance(classifier.classifier, ClipClassifier):
        raise ValueError(
            "The adapter has class names as its head, and a merged model can only have a linear layer there. Export it as onnx."
        )
    if head.as_linear() is None:
        raise ValueError(
            f"The adapter has a head of kind {type(head).__name__}, and a merged model can only have a linear layer there. Train with "
            f"{LINEAR_HEAD}, which is one, or export it as onnx."
        )
    logits = Logits(classifier)(pixels)
    if not torch.allclose(head.probabilities(logits), logits.softmax(-1), atol=1e-6):
        raise ValueError(
            "The head was trained under another normalisation than the softmax, which is all that a stock classifier has: its "
            "probabilities would be others. Export it as onnx, whose logits are the head's."
        )
    return logits.log_softmax(-1)
