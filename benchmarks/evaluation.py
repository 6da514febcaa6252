"""Evaluation with the adapter on against the bare backbone; where the adapter brings tokens of its own, against the bound they allow."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from peft import get_peft_model

from benchmarks import ours
from benchmarks.measure import Call, Options, Row, counted, paired
from hf_cl.adapters import AsyncLoraConfig, CPEClipConfig, GladConfig, OnePromptConfig, SaraConfig
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.backbones import classifier_of

HEAD = {"type": "linear", "bias": False}
MERGED = {
    "ASYNC_LORA": lambda: AsyncLoraConfig(unfreeze_from=11, unfrozen=True, head=dict(HEAD)),
    "GLAD": lambda: GladConfig(head=dict(HEAD)),
    "SARA": lambda: SaraConfig(density=0.05, head=dict(HEAD)),
}


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        images = ours.images(ours.BATCH[size], options.device)
        base = ours.vit(size).to(options.device).eval()
        bare = _forward(lambda base=base, images=images: base(pixel_values=images))
        twin = copy.deepcopy(base)  # the same work in other memory: what two models alike differ by
        yield _row(
            f"a copy of the bare backbone, {size}",
            _forward(lambda twin=twin, images=images: twin(pixel_values=images)),
            bare,
            options,
            None,
        )
        yield _row(f"ONE_PROMPT, {size}", _outputs(base, OnePromptConfig(), images), bare, options, 0.97)
        for name, config in MERGED.items():
            yield _row(f"{name} merged, {size}", _outputs(base, config(), images, merge=True), bare, options, 0.99)
        yield _row(f"GLAD not merged, {size}", _outputs(base, GladConfig(head=dict(HEAD)), images), bare, options, None)
        yield _clip(size, options)


def _clip(size: str, options: Options) -> Row:
    """Images alone: the texts are encoded once."""
    base, images = ours.clip(size).to(options.device).eval(), ours.images(ours.BATCH[size], options.device)
    bare = _forward(lambda: base.get_image_features(pixel_values=images))
    return _row(f"CPE_CLIP, {size}", _outputs(base, CPEClipConfig(head=dict(TEXT_HEAD)), images), bare, options, 0.97, of_bound=True)


def _row(name: str, tuned: Call, bare: Call, options: Options, goal: float | None, of_bound: bool = False) -> Row:
    tuned()  # a text head encodes its texts once: that is no part of what a batch of images costs
    mine, theirs = counted(tuned), counted(bare)
    bound = theirs.total / mine.total
    pair = paired(tuned, bare, options)
    count = f"{mine.calls} operations against {theirs.calls}"
    against = "bare backbone" if not of_bound else "bound counted from its tokens"
    detail = f"{count}, whose arithmetic allows {bound:.3f} of the bare backbone, measured {pair.speed:.3f}"
    return pair.row("evaluation", name, against, "" if goal is None else f">= {goal}", detail, scale=1 / bound if of_bound else 1.0)


def _outputs(base: Any, config: Any, images: torch.Tensor, merge: bool = False) -> Call:
    config.class_names = list(ours.CLASSES)
    model: Any = get_peft_model(copy.deepcopy(base), config)
    classifier = classifier_of(model.to(images.device), ours.tokenizer()).eval()
    if merge:
        model.merge_adapter()
    return _forward(lambda: classifier.outputs(images))


def _forward(call: Call) -> Call:
    def run() -> None:
        with torch.no_grad():
            call()

    return run
