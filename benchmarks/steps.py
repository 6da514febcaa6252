"""Training step of each adapter against a loop written by hand with the same arithmetic; the losses of both are compared first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks import by_hand, ours
from benchmarks.measure import Call, Options, Row, flops, paired
from hf_cl.adapters import AsyncLoraConfig, CPEClipConfig, GladConfig, SaraConfig
from hf_cl.adapters.bases import signature
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.adapters.sara import sara_lr
from hf_cl.methods import coact, cpe_clip, glad, ovor, sara

GOAL = ">= 0.95"
Sides = tuple[ours.OurStep, Call, Callable[[], Any]]
"""Our step, ours as a call, theirs."""


def one_prompt(size: str, options: Options) -> Sides:
    base, batch = ours.vit(size).to(options.device), _batch(size, options)
    mine = ours.OurStep(ours.vit(size), ovor(epochs=1, vor_epochs=0), ours.session(), ours.accelerator(options.device))
    return mine, _call(mine, batch), by_hand.one_prompt(base, mine, batch[0], batch[2], ours.FIRST_NEW)


def glad_step(size: str, options: Options) -> Sides:
    base, batch = ours.vit(size).to(options.device), _batch(size, options)
    config = GladConfig(lora_dropout=0.0, head={"type": "linear"})
    mine = ours.OurStep(ours.vit(size), glad(adapter=config, iterations=1), _long_session(), ours.accelerator(options.device))
    scale = config.lora_alpha / config.r**0.5
    return mine, _call(mine, batch), by_hand.glad(base, mine, batch[0], batch[2], scale, config.rho, config.lam)


def sara_step(size: str, options: Options) -> Sides:
    base, batch = ours.vit(size).to(options.device), _batch(size, options)
    method = sara(adapter=SaraConfig(density=0.05), epochs=1)
    mine = ours.OurStep(ours.vit(size), method, ours.session(0, new=len(ours.CLASSES)), ours.accelerator(options.device))
    rate = sara_lr(mine.tuner.selected_threshold())
    return mine, _call(mine, batch), by_hand.sara(base, mine, batch[0], batch[2], 0, rate)


def coact_step(size: str, options: Options) -> Sides:
    batch, mine = _batch(size, options), coact_ours(size, options)
    students = [by_hand.SeparateModels(ours.vit(size).to(options.device), mine, 1.0, 11) for _ in range(2)]
    return mine, _call(mine, batch), by_hand.coact_session_0(*students, batch[0], batch[1], batch[2], 0.999)


def coact_ours(size: str, options: Options) -> ours.OurStep:
    """Session 0 of CoACT with block 11 unfrozen. The pooler starts as the identity: random weights come without one."""
    config = AsyncLoraConfig(unfreeze_from=11, lora_dropout=0.0, head={"type": "linear", "bias": False, "pooler": False})
    method = coact(adapter=config, epochs=1, learning_rate=by_hand.COACT_RATE)
    config.head = {"type": "linear", "bias": False, "pooler": True}
    config.base_signature = signature(ours.vit(size))  # as a loaded adapter's: then no checkpoint is asked for its pooler
    return ours.OurStep(
        ours.vit(size), method, ours.session(0, new=len(ours.CLASSES)), ours.accelerator(options.device), before=_know_pooler
    )


def _know_pooler(tuner: Any) -> None:
    states = tuner.states["default"]
    states.pretrained = {name: p.detach().clone() for name, p in tuner._pooler("default").items()}


def cpe_clip_step(size: str, options: Options) -> Sides:
    base, batch = ours.clip(size).to(options.device), _batch(size, options)
    seen = ours.session(1, new=5)
    method = cpe_clip(adapter=CPEClipConfig(head=dict(TEXT_HEAD), init_seed=0), base_epochs=1, session_epochs=1)
    mine = ours.OurStep(ours.clip(size), method, seen, ours.accelerator(options.device))
    labels = batch[2] % 5 + seen.first_new_class
    texts = mine.classifier.head.tokens.batch(range(seen.first_new_class, len(seen.class_names)), options.device)
    call = lambda: mine(mine.batch(batch[0], labels=labels))  # noqa: E731
    return mine, call, by_hand.cpe_clip(base, mine, batch[0], labels, seen.first_new_class, texts.input_ids, 5 / 20)


ADAPTERS = {
    "ONE_PROMPT": one_prompt,
    "CPE_CLIP": cpe_clip_step,
    "ASYNC_LORA": coact_step,
    "GLAD": glad_step,
    "SARA": sara_step,
}


def _batch(size: str, options: Options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count = ours.BATCH[size]
    return (
        ours.images(count, options.device),
        ours.images(count, options.device, seed=2),
        ours.labels(count, options.device),
    )


def _long_session() -> Any:
    """GLAD counts its steps by the number of training images."""
    now = ours.session()
    return type(now)(now.id, now.class_names, now.new_class_names, train=range(32), tests=(), batch_size=32)  # pyright: ignore[reportArgumentType]


def _call(mine: ours.OurStep, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Call:
    return lambda: mine(mine.batch(batch[0], batch[1], labels=batch[2]))


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        for name, build in ADAPTERS.items():
            mine, call, theirs = build(size, options)
            check_same(mine, call, theirs, name)
            work = flops(call)
            pair = paired(call, theirs, options, warmup=1)
            yield pair.row("step", f"{name}, {size}", "by hand", GOAL, f"{work / 1e9:.0f} GFLOP a step of {ours.BATCH[size]} images")


def check_same(mine: ours.OurStep, call: Call, theirs: Callable[[], Any], name: str) -> None:
    """Two steps of both give the same losses, or they do not do the same arithmetic.

    Raises AssertionError where they do not.
    """
    for number in range(2):
        call()
        losses, expected = mine.losses(), float(theirs())
        total = sum(losses.values())
        if abs(total - expected) > 2e-3 * max(1.0, abs(expected)):
            raise AssertionError(f"{name}, step {number}: the losses are {losses} = {total:.5f} here and {expected:.5f} by hand.")
