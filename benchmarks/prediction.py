"""`Classifier.rows` over pictures in files' bytes, decoded by threads, against the bare forward of the same prepared batches.

What is compared is the time of the thread that computes: other threads decode meanwhile, on other cores. A prediction is as fast as the
forward where that ratio is near 1 and decoding keeps up, which the detail says in threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import torch
from peft import get_peft_model
from PIL import Image
from transformers import ViTImageProcessor

from benchmarks import ours
from benchmarks.measure import Call, Options, Pair, Row
from hf_cl.adapters import OnePromptConfig
from hf_cl.hub.classifier import Classifier

PICTURES, BATCH, WORKERS, SIDE = 32, 16, 4, 256


def rows(options: Options) -> Iterator[Row]:
    """On the CPU alone: on a GPU the thread that computes waits for it."""
    if options.device.type != "cpu":
        return
    for size in options.sizes:
        config = OnePromptConfig(class_names=list(ours.CLASSES), head={"type": "linear"})
        classifier = Classifier(get_peft_model(ours.vit(size), config), ViTImageProcessor(), None, ours.CLASSES, options.device)
        pictures = [_jpeg(seed) for seed in range(PICTURES)]
        started = time.perf_counter()
        pixels = [classifier.processor(images=[Image.open(BytesIO(p))], return_tensors="pt")["pixel_values"][0] for p in pictures]
        decoding = time.perf_counter() - started
        batches = torch.stack(pixels).split(BATCH)

        def predict(classifier: Classifier = classifier, pictures: list[bytes] = pictures) -> None:
            for _ in classifier.rows(pictures, 1, BATCH, WORKERS):
                pass

        @torch.no_grad()
        def forward(classifier: Classifier = classifier, batches: tuple[torch.Tensor, ...] = batches) -> None:
            for batch in batches:
                classifier.logits_of(batch)

        pair = _in_turn(predict, forward, options.repeats)
        threads = decoding / min(pair.theirs)
        detail = f"{PICTURES} JPEGs of {SIDE} px, batches of {BATCH}; decoding keeps up with {threads:.1f} threads"
        yield pair.row("predict", f"pictures, {size}", "the forward of the same batches", ">= 0.9", detail)


def _in_turn(ours_: Call, theirs: Call, repeats: int) -> Pair:
    """As `measure.paired`, by the processor time of this thread."""
    times: dict[Call, list[float]] = {ours_: [], theirs: []}
    for number in range(1 + max(2, repeats // 2)):
        for side in (ours_, theirs, theirs, ours_):
            before = time.thread_time()
            side()
            if number:  # the first round warms up
                times[side].append(time.thread_time() - before)
    return Pair(*([(a + b) / 2 for a, b in zip(side[::2], side[1::2], strict=True)] for side in times.values()))


def _jpeg(seed: int) -> bytes:
    file = BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((SIDE, SIDE)).save(file, format="jpeg", quality=90)
    return file.getvalue()
