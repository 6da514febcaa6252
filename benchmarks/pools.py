"""Adapters that choose by the image beside OnePrompt, which does not: steps and evaluation, on the same base and images.

Session 1 of two; every size is the recipe's default. A pool asks the untouched tower first, so its step is three units of a forward where
OnePrompt's is two; in evaluation it asks once per run, and afterwards costs what OnePrompt does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks import ours
from benchmarks.measure import Options, Row, flops, paired
from hf_cl.contracts import Method
from hf_cl.methods import CodaPromptSettings, DualPromptSettings, HyperLoraSettings, L2PSettings, MvpSettings, ovor

METHODS: dict[str, Callable[[], Method]] = {
    "l2p": L2PSettings().method,
    "dualprompt": DualPromptSettings().method,
    "coda_prompt": CodaPromptSettings().method,
    "mvp": MvpSettings().method,
    "hyper_lora": HyperLoraSettings().method,
}


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        images, labels = ours.images(ours.BATCH[size], options.device), ours.labels(ours.BATCH[size], options.device)
        plain = _step(ovor(epochs=1, vor_epochs=0), size, options)
        for name, method in METHODS.items():
            mine = _step(method(), size, options)
            yield _of_training(name, mine, plain, size, images, labels, options)
            yield from _of_evaluation(name, mine, plain, size, images, options)


def _step(method: Method, size: str, options: Options) -> ours.OurStep:
    return ours.OurStep(
        ours.vit(size), method, ours.session(), ours.accelerator(options.device), before=lambda tuner: tuner.grow("default", ())
    )


def _of_training(
    name: str, mine: ours.OurStep, plain: ours.OurStep, size: str, images: torch.Tensor, labels: torch.Tensor, options: Options
) -> Row:
    """All updates on a batch, in the time of as many steps of OnePrompt."""
    updates, queries = mine.phase.updates_per_batch, mine.tuner.query_pass()

    def all_updates() -> None:
        batch = mine.batch(images, labels=labels)
        with queries.keeping():
            for _ in range(updates):
                mine(batch)

    def as_many() -> None:
        for _ in range(updates):
            plain(plain.batch(images, labels=labels))

    mine.prepared.train()
    plain.prepared.train()
    work, allowed = flops(all_updates), flops(as_many)
    detail = f"operations allow {allowed / work:.3f}" + (f"; {updates} updates a batch" if updates > 1 else "")
    return paired(all_updates, as_many, options, warmup=1).row("pools", f"{name}, steps per second, {size}", "OnePrompt", detail=detail)


def _of_evaluation(name: str, mine: ours.OurStep, plain: ours.OurStep, size: str, images: torch.Tensor, options: Options) -> Iterator[Row]:
    mine.classifier.eval()
    plain.classifier.eval()
    queries = mine.tuner.query_pass()

    @torch.no_grad()
    def asking() -> None:
        mine.classifier.outputs(images)

    @torch.no_grad()
    def without() -> None:
        plain.classifier.outputs(images)

    yield paired(asking, without, options, warmup=1).row("pools", f"{name}, evaluation, {size}", "OnePrompt")
    with queries.keeping():
        asking()
        pair = paired(asking, without, options, warmup=1)
    yield pair.row("pools", f"{name}, evaluation with kept queries, {size}", "OnePrompt")
