"""A GPU's own rows: ViT-B/16 in bf16 with batch 128: share of the card's peak, memory, input."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import by_hand, ours, steps
from benchmarks.measure import MIB, Call, Options, Row, flops, paired, seconds

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "V100": 125e12}
"""Part of a card's name -> its dense peak in half precision, operations per second, as the vendor gives it. V100 has no bf16."""
BATCH = 128


def rows(options: Options) -> Iterator[Row]:
    """Nothing on other devices."""
    if options.device.type != "cuda":
        return
    name = torch.cuda.get_device_name(options.device)
    peak = next((peak for part, peak in PEAK.items() if part in name), None)
    ours.BATCH["base"], before = BATCH, ours.BATCH["base"]
    ours.PRECISION = "bf16"
    try:
        for kind, build in steps.ADAPTERS.items():
            mine, call, _ = build("base", options)
            yield from _adapter(kind, mine, call, options, peak)
    finally:
        ours.BATCH["base"], ours.PRECISION = before, "no"


def _adapter(kind: str, mine: ours.OurStep, call: Call, options: Options, peak: float | None) -> Iterator[Row]:
    work = flops(call)
    for _ in range(3):
        call()
    torch.cuda.reset_peak_memory_stats(options.device)
    times = sorted(seconds(call, options.device) for _ in range(max(5, options.repeats)))
    middle = times[len(times) // 2]
    memory = torch.cuda.max_memory_allocated(options.device) / MIB
    detail = f"{1e3 * middle:.1f} ms, {BATCH / middle:.0f} images/s, {work / 1e12:.2f} TFLOP, peak memory {memory:.0f} MiB"
    if peak is not None:
        yield Row("gpu", f"{kind}, ViT-B/16, bf16, batch {BATCH}", "dense peak of the card (MFU)", work / middle / peak, "", detail)
    if kind == "CPE_CLIP":
        return
    bare = _bare(mine, options)
    share = (work / middle) / (flops(bare) / min(seconds(bare, options.device) for _ in range(5)))
    yield Row("gpu", f"{kind}, operations per second", "bare backbone, forward and backward", share, ">= 0.95", "passes counted")


def _bare(mine: ours.OurStep, options: Options) -> Call:
    """Forward, and the gradient with respect to activations down to the first block: what an adapter's step needs of the backbone."""
    vit = by_hand.ViT(ours.vit("base").to(options.device).requires_grad_(False))
    vit.embeddings.cls_token.requires_grad_(True)
    images = ours.images(BATCH, options.device)

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = vit(images).float().square().mean()
        loss.backward()

    paired(run, run, options, warmup=2)
    return run
