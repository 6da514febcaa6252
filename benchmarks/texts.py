"""A session's step of CPE-CLIP encodes the texts of its own classes; the straightforward way encodes those of all classes seen."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import ours
from benchmarks.measure import Call, Options, Row, flops, paired
from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.methods import cpe_clip

SEEN, CURRENT = 100, 5


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        mine, everything = _step(size, options, all_seen=False), _step(size, options, all_seen=True)
        bound = flops(everything) / flops(mine)
        pair = paired(mine, everything, options)
        detail = f"{pair.speed:.2f} times as fast, operations allow {bound:.2f}"
        yield pair.row(
            "texts", f"CPE-CLIP's step, {SEEN} classes seen, {CURRENT} new, {size}", "the bound of all texts", ">= 0.9", detail, 1 / bound
        )


def _step(size: str, options: Options, all_seen: bool) -> Call:
    names = tuple(f"w{i}" for i in range(SEEN))
    method = cpe_clip(adapter=CPEClipConfig(head=dict(TEXT_HEAD), init_seed=0), base_epochs=1, session_epochs=1)
    step = ours.OurStep(ours.clip(size), method, ours.session(1, names, CURRENT), ours.accelerator(options.device))
    if all_seen:
        step.classifier.head.training_classes = None
    batch = ours.BATCH[size]
    labels = (SEEN - CURRENT + torch.arange(batch) % CURRENT).to(options.device)
    images = ours.images(batch, options.device)
    return lambda: step(step.batch(images, labels=labels))
