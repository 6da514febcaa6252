"""A GPU's own rows: ViT-B/16 in bf16 with batch 128, the share of the card's peak, memory, the input pipeline, compiled steps.

`--device cpu --sizes rehearsal` runs every line with narrow towers and in float32: the figures mean nothing then.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import ViTImageProcessor

from benchmarks import by_hand, ours, scan, steps, two_pass
from benchmarks.measure import MIB, Call, LivePeak, Options, Row, flops, now, paired, seconds
from benchmarks.streams import Stream
from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part
from hf_cl.methods import lora, ovor

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "V100": 125e12}
"""Part of a card's name -> its dense peak in half precision, operations per second, as the vendor gives it. V100 has no bf16."""
BATCH = 128


def rows(options: Options) -> Iterator[Row]:
    """On a CPU only where a rehearsal is asked for by name."""
    cuda = options.device.type == "cuda"
    if not cuda and options.sizes != ["rehearsal"]:
        return
    size = "base" if cuda else "rehearsal"
    batch, ours.PRECISION = ours.BATCH[size], "bf16" if cuda else "no"
    ours.BATCH[size] = BATCH if cuda else batch
    try:
        plain = ours.OurStep(ours.vit(size), lora(epochs=1), ours.session(), ours.accelerator(options.device))
        fixed = plain.batch(ours.images(ours.BATCH[size], options.device), labels=ours.labels(ours.BATCH[size], options.device))
        memory = {"LoRA": _peak(lambda: plain(fixed), options)}
        bare = _bare(size, options)
        limit = flops(bare) / min(seconds(bare, options.device) for _ in range(options.repeats))
        for kind, build in steps.ADAPTERS.items():
            gc.collect()  # a model and its hooks hold each other; a card of 24 GB has no room for several
            _, call, theirs = build(size, options)
            memory[kind] = _peak(call, options)
            yield from _adapter(kind, size, call, theirs, limit, options)
        for kind in ("SARA", "ASYNC_LORA"):
            detail = f"{memory[kind] / MIB:.0f} against {memory['LoRA'] / MIB:.0f} MiB"
            yield Row("gpu", f"{kind}, peak memory of a step beyond weights, {size}", "LoRA", memory[kind] / memory["LoRA"], "", detail)
        yield _with_input(size, flops(lambda: plain(fixed)), options)
        yield from two_pass.rows(Options(options.device, [size], options.repeats))
        yield from scan.rows(options)
        yield _compiled(size, options)
    finally:
        ours.BATCH[size], ours.PRECISION = batch, "no"


def _adapter(kind: str, size: str, call: Call, theirs: Call, limit: float, options: Options) -> Iterator[Row]:
    """`limit`: operations per second of the bare backbone."""
    count, work = ours.BATCH[size], flops(call)
    middle = statistics.median(seconds(call, options.device) for _ in range(options.repeats))
    detail = f"{1e3 * middle:.1f} ms, {count / middle:.0f} images/s, {work / 1e12:.2f} TFLOP"
    yield Row("gpu", f"{kind}, {size}, batch {count}, on a batch that is there", "the card's dense peak", _share(work / middle), "", detail)
    mixed = torch.autocast(options.device.type, torch.bfloat16) if ours.PRECISION == "bf16" else contextlib.nullcontext()

    def by_hand_in_the_same_precision() -> None:
        with mixed:
            theirs()

    yield paired(call, by_hand_in_the_same_precision, options).row("gpu", f"{kind}, step, {size}", "by hand", ">= 0.95")
    if kind != "CPE_CLIP":  # its backbone has a second tower
        against = "bare backbone, forward and backward"
        yield Row("gpu", f"{kind}, operations per second, {size}", against, work / middle / limit, ">= 0.95", "passes counted")


def _share(rate: float) -> float:
    """Of the peak of the card (MFU); not a number where the card is not in the table, or there is none."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return rate / next((peak for part, peak in PEAK.items() if part in name), float("nan"))


def _peak(call: Call, options: Options) -> float:
    """Bytes at the height of a step beyond those that lie there before it."""
    call()  # the optimizer makes its state
    if options.device.type == "cuda":
        before = torch.cuda.memory_allocated(options.device)
        torch.cuda.reset_peak_memory_stats(options.device)
        call()
        return float(torch.cuda.max_memory_allocated(options.device) - before)
    with LivePeak() as live:
        call()
    return float(live.peak)


class _Clock(Part):
    """When each step of the run had been handed to the device."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self, trainer: Any) -> None:
        self.times.append(time.perf_counter())


def _with_input(size: str, work: int, options: Options) -> Row:
    """LoRA through the trainer: decoding, augmentation, transfer and steps; the rate is that of the second epoch."""
    count, clock = ours.BATCH[size], _Clock()
    per_epoch = 8 if options.device.type == "cuda" else 2
    method = lora(epochs=2)
    method = type(method)(**{**vars(method), "parts": [clock]})
    stream: Any = Stream(1, 2, count * per_epoch, 2)
    processor = ViTImageProcessor(size={"height": stream.side, "width": stream.side})
    values = {"batch_size": count, "augmentation": "crop_flip", "mixed_precision": ours.PRECISION, "cpu": options.device.type == "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingSettings(folder, logging_steps=per_epoch, **values)  # the host waits at the end of each epoch
        ContinualTrainer(ours.vit(size), processor, method, stream, run, quiet=True).fit()
    now(options.device)
    took = (clock.times[-1] - clock.times[per_epoch - 1]) / per_epoch
    detail = f"{count / took:.0f} images/s, {1e3 * took:.1f} ms a step of {count}, {work / 1e12:.2f} TFLOP"
    return Row(
        "gpu", f"LoRA through the trainer, input pipeline on, {size}", "the card's dense peak (MFU)", _share(work / took), ">= 0.45", detail
    )


def _compiled(size: str, options: Options) -> Row:
    sides = []
    for compiled in (True, False):
        where = ours.accelerator(options.device, compile=compiled)
        mine = ours.OurStep(ours.vit(size), ovor(epochs=1, vor_epochs=0), ours.session(), where)
        batch = mine.batch(ours.images(ours.BATCH[size], options.device), labels=ours.labels(ours.BATCH[size], options.device))
        sides.append(lambda mine=mine, batch=batch: mine(batch))
    return paired(*sides, options, warmup=3).row("gpu", f"OnePrompt's step compiled, {size}", "not compiled")


def _bare(size: str, options: Options) -> Call:
    """Forward, and the gradient with respect to activations down to the first block: what an adapter's step needs of the backbone."""
    vit = by_hand.ViT(ours.vit(size).to(options.device).requires_grad_(False))
    vit.embeddings.cls_token.requires_grad_(True)
    images = ours.images(ours.BATCH[size], options.device)

    def run() -> None:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=ours.PRECISION == "bf16"):
            loss = vit(images).float().square().mean()
        loss.backward()

    for _ in range(2):
        run()
    return run
