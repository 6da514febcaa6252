"""How far the steps are from what the machine can do, and what a ratio of 1 looks like on it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from benchmarks import ours, steps
from benchmarks.measure import Options, Row, flops, paired

SIDE = 1024


def rows(options: Options) -> Iterator[Row]:
    """The same step on two models alike, then operations per second of steps against those of a square matrix product."""
    calls = [steps.one_prompt("tiny", options)[1] for _ in range(2)]
    yield paired(*calls, options).row("limits", "OnePrompt's step, tiny", "the same again")
    square = torch.randn(SIDE, SIDE, device=options.device)
    for size in options.sizes:
        for kind, build in steps.ADAPTERS.items():
            _, call, _ = build(size, options)
            work, product = flops(call), 2 * SIDE**3
            pair = paired(call, lambda: square @ square, options)
            ratios = [b / a * work / product for a, b in zip(pair.ours, pair.theirs, strict=True)]
            ours_now, theirs_now = work / statistics.median(pair.ours), product / statistics.median(pair.theirs)
            detail = f"{ours_now / 1e9:.0f} of {theirs_now / 1e9:.0f} GFLOP/s; {work / ours.BATCH[size] / 1e9:.1f} GFLOP an image"
            name = f"{kind}'s step, {size}, operations per second"
            yield Row("limits", name, f"a matrix product of {SIDE}", statistics.median(ratios), "", detail)
