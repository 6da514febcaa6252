"""An adapter whose head holds only the dimensions that it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_cl.heads import NestedDropoutHead, build_head
from hf_cl.heads.nested_dropout import truncated
from hf_cl.hub.classifier import Classifier

TOLERANCE = 1e-6
"""Largest difference of a logit, as a share of the largest (or of 1)."""


@torch.no_grad()
def write_truncated(classifier: Classifier, pixels: Tensor, folder: Path) -> None:
    """Write the adapter with its nested-dropout head cut to the dimensions that it keeps; it loads as any other.

    Args:
        classifier: with the adapter.
        pixels: [B, 3, S, S] on which the two heads are compared.
        folder: does not exist.

    Raises ValueError for a head without an order of dimensions, and for one that cannot be cut; RuntimeError where the logits differ.
    """
    head, model = classifier.classifier.head, classifier.model
    if not isinstance(head, NestedDropoutHead):
        raise ValueError(f"A {type(head).__name__} has no order of dimensions to cut off from; train with a head of type nested_dropout.")
    config: Any = model.peft_config["default"]
    spec, tensors = truncated(head, config.head)
    small = build_head(spec, head.in_features, head.num_classes).eval()
    small.load_state_dict(tensors)
    features = classifier.classifier.outputs(pixels).features
    wanted, found = head(features), small(features)
    off = (wanted - found).abs().max() / wanted.abs().max().clamp_min(1.0)
    if not off <= TOLERANCE:
        raise RuntimeError(f"The truncated head does not give what the whole one gives: they differ by up to {off:.1e} of the largest.")
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card
    saved = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    place = next(name.removesuffix("size") for name in saved if name.endswith(".size"))
    saved |= {place + name: tensor for name, tensor in tensors.items()}
    save_file(saved, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    written = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**written, "head": spec}, indent=2, ensure_ascii=False))
