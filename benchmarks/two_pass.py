"""OnePrompt against a prompt pool that needs a query pass first (DualPrompt's arithmetic), written by hand on the same ViT."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import by_hand, ours
from benchmarks.measure import Call, Options, Row, flops, paired
from hf_cl.methods import ovor


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        for precision, compiled in [("no", False), ("bf16", False), *([("no", True)] if options.compile else [])]:
            what = " compiled" if compiled else "" if precision == "no" else f" in {precision}"
            goal = not what
            base, count = ours.vit(size).to(options.device), ours.BATCH[size]
            images, labels = ours.images(count, options.device), ours.labels(count, options.device)
            where = ours.accelerator(options.device, precision, compiled)
            mine = ours.OurStep(ours.vit(size), ovor(epochs=1, vor_epochs=0), ours.session(), where)
            batch = mine.batch(images, labels=labels)
            pool = by_hand.TwoPass(base, by_hand.head_like(mine)).to(options.device)
            theirs = by_hand.two_pass_step(pool, images, labels, ours.FIRST_NEW)
            yield _row(f"OnePrompt training step{what}, {size}", lambda m=mine, b=batch: m(b), theirs, options, 1.45 if goal else None)
            mine.prepared.eval()
            tested = lambda m=mine.prepared, i=images: m(i)  # noqa: E731
            yield _row(
                f"OnePrompt evaluation{what}, {size}", _quiet(tested), _quiet(lambda p=pool, i=images: p(i)), options, 1.9 if goal else None
            )


def _row(name: str, mine: Call, theirs: Call, options: Options, goal: float | None) -> Row:
    pair = paired(mine, theirs, options)
    allowed = flops(theirs) / flops(mine) if "compiled" not in name else 0.0
    detail = f"operations allow {allowed:.2f}" if allowed else ""
    return pair.row("two passes", name, "a prompt pool with a query pass", f">= {goal}" if goal else "", detail)


def _quiet(call: Call) -> Call:
    def run() -> None:
        with torch.no_grad():
            call()

    return run
